"""Helpers of the parity tests: load arrays, compare sets of rectangles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tcm_d2.structures.conversions import boxes_to_quads, le90_to_boxes


class Golden:
    """Arrays of one golden file as tensors."""

    def __init__(self, path: Path) -> None:
        self._arrays = np.load(path)

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self._arrays[name]))

    def __contains__(self, name: str) -> bool:
        return name in self._arrays.files

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Return the arrays below ``prefix/`` by their remaining name."""
        names = [n for n in self._arrays.files if n.startswith(prefix + "/")]
        return {n[len(prefix) + 1 :]: self[n] for n in names}

    def boxes(self, name: str) -> Tensor:
        """Return stored le90 boxes (radians, clockwise) in our convention."""
        return le90_to_boxes(self[name])


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest magnitude of ``expected``."""
    actual, expected = actual.detach().double(), expected.double()
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    scale = expected.abs().max().clamp(min=1e-12)
    return ((actual - expected).abs().max() / scale).item()


def unmatched_detections(
    actual: tuple[Tensor, Tensor, Tensor],
    expected: tuple[Tensor, Tensor, Tensor],
    *,
    corner_px: float,
    score: float,
) -> int:
    """Return how many detections of either side lack a partner on the other.

    Partners have one class, corners within ``corner_px`` (in some cyclic order) and scores within
    ``score``. Each side is (boxes, scores, classes).
    """
    missing = 0
    for class_index in torch.cat([actual[2], expected[2]]).unique():
        quads = [boxes_to_quads(side[0][side[2] == class_index]) for side in (actual, expected)]
        scores = [side[1][side[2] == class_index] for side in (actual, expected)]
        if len(quads[0]) == 0 or len(quads[1]) == 0:
            missing += len(quads[0]) + len(quads[1])
            continue
        distance = torch.stack(
            [
                (quads[0][:, None] - quads[1][None].roll(shift, dims=2)).abs().amax(dim=(2, 3))
                for shift in range(4)
            ]
        ).amin(dim=0)
        close = (distance <= corner_px) & ((scores[0][:, None] - scores[1][None]).abs() <= score)
        missing += int((~close.any(dim=1)).sum()) + int((~close.any(dim=0)).sum())
    return missing
