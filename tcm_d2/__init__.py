"""Text-prompted (CLIP) rotated object detection for aerial images, on Detectron2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcm_d2.inference.detector import Detector
    from tcm_d2.inference.results import Detections

__version__ = "0.1.0"
__all__ = ["Detections", "Detector", "__version__"]


def __getattr__(name: str) -> Any:
    """Import what users call when they ask for it: torch and Detectron2 take seconds."""
    if name == "Detector":
        from tcm_d2.inference.detector import Detector

        return Detector
    if name == "Detections":
        from tcm_d2.inference.results import Detections

        return Detections
    raise AttributeError(f"module 'tcm_d2' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "Detections", "Detector"])
