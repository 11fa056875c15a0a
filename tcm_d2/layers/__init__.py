"""Layers and tensors that any network may use."""
