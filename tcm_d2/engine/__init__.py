"""Experiments and the one training loop."""
