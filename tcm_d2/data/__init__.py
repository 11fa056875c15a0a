"""Data sets, augmentation and the mapper."""
