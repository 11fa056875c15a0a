"""CLIP's towers, built and read by open_clip."""
