"""The detector and its registered names."""
