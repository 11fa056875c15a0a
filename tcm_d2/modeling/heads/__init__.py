"""Rotated one-stage heads."""
