"""Checkpoints: read safely, translate names, load with a report."""
