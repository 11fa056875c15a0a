"""Weight files: read as tensors without running anything in them, and described in words."""
