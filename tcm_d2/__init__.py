"""Text-prompted (CLIP) rotated object detection for aerial images, on Detectron2."""

__version__ = "0.1.0"
