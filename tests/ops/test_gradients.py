"""Gradients of IoU and DIoU against central differences of the oracle in extended precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tcm_d2.ops import (
    paired_diou_rotated,
    paired_giou_rotated,
    paired_iou_rotated,
)
from tcm_d2.ops.registration import OPERATORS
from tests.ops.exactness import families, oracle

MEASURES = {
    "iou": paired_iou_rotated,
    "giou": paired_giou_rotated,
    "diou": paired_diou_rotated,
}
REFERENCES = {
    "iou": OPERATORS["paired_iou_rotated_backward"].reference,
    "giou": OPERATORS["paired_giou_rotated_backward"].reference,
    "diou": OPERATORS["paired_diou_rotated_backward"].reference,
}
# Families in which most places are smooth, and sides not so unequal that differences drown in
# rounding.
SMOOTH = [
    "random",
    "jitter 1e-5 ... 1",
    "nested",
    "aspect 1:1000",
    "centres to 1e5",
]


def gradients(name: str, boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the gradients (P, 10) of the summed measure wrt both boxes."""
    leaves = boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()
    return torch.cat(torch.autograd.grad(MEASURES[name](*leaves).sum(), leaves), dim=1)


def central_differences(name: str, pairs: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the slopes (P, 10) of the oracle at (P, 10) pairs, by (P, 10) steps."""
    slopes = np.empty(pairs.shape, oracle.Real)
    for column in range(pairs.shape[1]):
        values = []
        for sign in (1, -1):
            moved = pairs.astype(oracle.Real)
            moved[:, column] += sign * steps[:, column]
            values.append(getattr(oracle.pair_truth(moved[:, :5], moved[:, 5:]), name))
        slopes[:, column] = (values[0] - values[1]) / (2 * steps[:, column])
    return slopes


@pytest.mark.skipif(not oracle.IS_EXTENDED, reason="long double is no wider than float64 here")
@pytest.mark.parametrize("family", SMOOTH)
@pytest.mark.parametrize("name", ["iou", "diou"])
def test_gradients_equal_central_differences(name: str, family: str) -> None:
    boxes1, boxes2 = families.draw_pairs(family, 150, seed=11)
    pairs = np.concatenate([boxes1, boxes2], axis=1)
    # Small against the shortest side, and as far along the border for the angles.
    shortest = pairs[:, [2, 3, 7, 8]].min(axis=1).astype(oracle.Real)
    longest = pairs[:, [2, 3, 7, 8]].max(axis=1)
    steps = np.repeat(1e-7 * shortest[:, None], 10, axis=1)
    steps[:, [4, 9]] *= (57 / longest)[:, None]
    wide, narrow = (central_differences(name, pairs, steps * factor) for factor in (1, 0.5))
    # Where the two differ, a kink lies between. Slopes that are next to nothing beside the pair's
    # largest are compared with a part of that.
    size = np.maximum(np.abs(narrow), 1e-4 * np.abs(narrow).max(axis=1, keepdims=True))
    smooth = np.abs(wide - narrow) <= 3e-6 * size
    assert smooth.mean() > 0.9
    tensors = [torch.from_numpy(boxes) for boxes in (boxes1, boxes2)]
    kernel = gradients(name, *tensors).numpy()
    reference = torch.cat(
        REFERENCES[name](torch.ones(len(pairs), dtype=torch.float64), *tensors), dim=1
    )
    for grad in (kernel, reference.numpy()):
        assert (np.abs(grad - narrow)[smooth] <= 1e-5 * size[smooth]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("name", MEASURES)
def test_gradients_are_finite_everywhere(name: str, family: str, dtype: type) -> None:
    pairs = [torch.from_numpy(b.astype(dtype)) for b in families.draw_pairs(family, 500, seed=12)]
    kernel = gradients(name, *pairs)
    assert bool(kernel.isfinite().all())
    if family == "identical":
        shortest = pairs[0][:, 2:4].amin(dim=1, keepdim=True)
        assert (kernel * shortest).abs().max().item() < 1e-6
    if family == "zero area" and name == "iou":
        assert bool((kernel == 0).all())
    reference = torch.cat(REFERENCES[name](torch.ones_like(pairs[0][:, 0]), *pairs), dim=1)
    size = kernel.abs().amax(dim=1, keepdim=True).clamp(min=1e-9)
    # Where corners tie within rounding, the two may share the gradient in different ways.
    agree = ((kernel - reference).abs() <= 1e-6 * size).all(dim=1)
    assert agree.double().mean().item() > 0.99
