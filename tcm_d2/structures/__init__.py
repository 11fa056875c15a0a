"""Rotated boxes: angles, conversions, class masks."""
