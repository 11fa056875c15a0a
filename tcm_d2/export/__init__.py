"""Detectors in files that other programs run: ONNX and torch.export; and running these files."""
