"""Inference beyond single patches."""
