"""Result files: read, written, checked."""
