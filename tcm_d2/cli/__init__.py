"""What the command lines have in common."""
