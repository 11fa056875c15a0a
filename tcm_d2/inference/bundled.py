"""The detectors that lie in this package, by name. They are small and learned from renders."""

from __future__ import annotations

import os
from pathlib import Path

from tcm_d2.modeling.clip.weights import EMBEDDED_FILE

FOLDER = Path(__file__).resolve().parents[1] / "pretrained"
SUFFIX = ".safetensors"
# What the command lines take where no weights are named.
DEFAULT_NAME = "tcm_atss_embedded"


def list_bundled() -> list[str]:
    """Return the names that `Detector.from_pretrained` takes besides paths."""
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}") if path != EMBEDDED_FILE)


def find_bundled(name: str | os.PathLike[str]) -> Path | None:
    """Return the file of a bundled detector, or None where there is none of that name.

    A path that exists goes before a name: a folder ``tcm_atss_embedded`` is that folder.
    """
    text = os.fspath(name)
    if text in list_bundled() and not Path(text).exists():
        return FOLDER / f"{text}{SUFFIX}"
    return None
