"""Scenes that look like aerial photos."""
