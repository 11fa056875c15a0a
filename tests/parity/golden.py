"""Helpers of the parity tests: load arrays, compare sets of rectangles."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tcm_d2.modeling.dense import decode
from tcm_d2.structures.conversions import boxes_to_quads, le90_to_boxes


class Golden:
    """Arrays of one golden file as tensors."""

    def __init__(self, path: Path) -> None:
        self._arrays = np.load(path)

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self._arrays[name]))

    def __contains__(self, name: str) -> bool:
        return name in self._arrays.files

    def names(self) -> list[str]:
        """Return the names of all arrays."""
        return list(self._arrays.files)

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Return the arrays below ``prefix/`` by their remaining name."""
        names = [n for n in self._arrays.files if n.startswith(prefix + "/")]
        return {n[len(prefix) + 1 :]: self[n] for n in names}

    def boxes(self, name: str) -> Tensor:
        """Return stored le90 boxes (radians, clockwise) in our convention."""
        return le90_to_boxes(self[name])


# Scores this close to a cut may fall on either side of it: the last digits are the processor's.
NEAR_CUT = 1e-6


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest magnitude of ``expected``."""
    actual, expected = actual.detach().double(), expected.double()
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    scale = expected.abs().max().clamp(min=1e-12)
    return ((actual - expected).abs().max() / scale).item()


Detections = tuple[Tensor, Tensor, Tensor]


def unmatched_detections(
    actual: Detections, expected: Detections, *, corner_px: float, score: float
) -> int:
    """Return how many detections of either side have no match on the other.

    Matches have one class, corners within ``corner_px`` (in some cyclic order) and scores within
    ``score``. Each side is (boxes, scores, classes).
    """
    limits = {"corner_px": corner_px, "score": score}
    return num_missing(actual, expected, **limits) + num_missing(expected, actual, **limits)


def num_missing(
    wanted: Detections, available: Detections, *, corner_px: float, score: float
) -> int:
    """Return how many of the wanted detections have no match; see `unmatched_detections`."""
    missing = 0
    for class_index in wanted[2].unique():
        quads = [boxes_to_quads(side[0][side[2] == class_index]) for side in (wanted, available)]
        scores = [side[1][side[2] == class_index] for side in (wanted, available)]
        distance = torch.stack(
            [
                (quads[0][:, None] - quads[1][None].roll(shift, dims=2)).abs().amax(dim=(2, 3))
                for shift in range(4)
            ]
        ).amin(dim=0)
        close = (distance <= corner_px) & ((scores[0][:, None] - scores[1][None]).abs() <= score)
        missing += int((~close.any(dim=1)).sum())
    return missing


def check_selection(
    candidates: Callable[[], Detections], expected: Detections, *, corner_px: float, score: float
) -> None:
    """Assert that what a head selects before NMS is the reference's selection, beyond rounding.

    At the score threshold and at the limit of candidates per level the last digit of a score, which
    is the processor's, decides. All whose class score is `NEAR_CUT` above the cut must be among the
    expected ones, and all expected ones among those that are not `NEAR_CUT` below it.

    Args:
        candidates: calls the head, which selects with `select_candidates`.
        expected: the reference's.
        corner_px, score: see `unmatched_detections`.
    """
    with _cut_moved_by(NEAR_CUT):
        certain = candidates()
    with _cut_moved_by(-NEAR_CUT):
        possible = candidates()
    limits = {"corner_px": corner_px, "score": score}
    assert num_missing(certain, expected, **limits) == 0
    assert num_missing(expected, possible, **limits) == 0
    assert len(certain[0]) <= len(expected[0]) <= len(possible[0])
    # Ties are few: else this would compare nothing.
    assert len(possible[0]) - len(certain[0]) <= max(2, len(expected[0]) // 500)


@contextmanager
def _cut_moved_by(margin: float) -> Iterator[None]:
    """Let heads take candidates from ``margin`` above their cut on, while this is open."""

    def select(logits: Tensor, *, score_threshold: float, topk: int) -> decode.Candidates:
        scores = logits.float().flatten().sigmoid()
        cut = score_threshold
        if len(scores) > topk:
            cut = max(cut, scores.topk(topk).values[-1].item())
        num = int((scores > cut + margin).sum())
        return decode.select_candidates(logits, score_threshold=0.0, topk=num)

    with pytest.MonkeyPatch.context() as patch:
        heads = [m for n, m in sys.modules.items() if n.startswith("tcm_d2.modeling.heads.")]
        for module in heads:
            if getattr(module, "select_candidates", None) is decode.select_candidates:
                patch.setattr(module, "select_candidates", select)
        yield
