"""Losses of boxes against the values and gradients of mmrotate's (golden c)."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcm_d2.modeling.losses import (
    GWDLoss,
    JDLoss,
    KFIoULoss,
    KLDLoss,
    RotatedIoULoss,
)
from tests.conftest import DATA_DIR, SHARED_DIR
from tests.parity.golden import Golden
from tests.parity.test_golden_ops import boxes_deg, sits_on_kink

COMMITTED, FULL = DATA_DIR / "golden" / "c_losses.npz", SHARED_DIR / "golden" / "c_losses.npz"
DTYPES = (torch.float32, torch.float64)
# By the source's names. It takes the root of the divergences.
DIVERGENCES = {
    "gwd": partial(GWDLoss, normalize=True),
    "kld": partial(KLDLoss, symmetry="none", sqrt=True),
    "jd": partial(JDLoss, sqrt=True),
    "kld_symmax": partial(KLDLoss, symmetry="max", sqrt=True),
    "kld_symmin": partial(KLDLoss, symmetry="min", sqrt=True),
}
# Relative differences of values, and of gradients to the largest number of their row: the source
# multiplies and inverts matrices in float32.
VALUE_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4


@pytest.fixture(scope="module", params=[COMMITTED, FULL], ids=["committed", "full"])
def golden(request: pytest.FixtureRequest) -> Golden:
    path: Path = request.param
    if not path.is_file():
        pytest.skip(f"golden arrays not found at {path}: only the small copy in tests/data runs")
    return Golden(path)


def check(golden: Golden, name: str, values: Tensor, leaf: Tensor, unit: Tensor) -> None:
    """Compare values (Q,), their gradient wrt a leaf, and what weights make of both."""
    expected = golden[f"{name}_none"].double()
    torch.testing.assert_close(values.double(), expected, rtol=VALUE_TOLERANCE, atol=1e-6)
    weight = golden["weight"][: len(values)].to(values.dtype)
    weighted = (values * weight).sum() / golden["avg_factor"]
    stored = golden[f"{name}_w_avg"].double()
    torch.testing.assert_close(weighted.double(), stored, rtol=VALUE_TOLERANCE, atol=0)
    for total, suffix in ((values.sum(), "none_grad"), (weighted, "w_avg_grad")):
        (gradient,) = torch.autograd.grad(total, leaf, retain_graph=True)
        stored = golden[f"{name}_{suffix}"].double()
        size = stored.abs().amax(dim=1, keepdim=True).clamp(min=1e-6)
        error = ((gradient.double() * unit - stored) / size).abs().max().item()
        assert error <= GRADIENT_TOLERANCE, suffix


def boxes_of(golden: Golden, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return predictions, a leaf, and targets of one loss, and the unit of the gradients."""
    num = len(golden[f"{name}_none"])
    pred, target = (boxes_deg(golden[key][:num], dtype) for key in ("pred", "target"))
    # Ours per degree counter-clockwise, the source's per radian clockwise.
    return pred.requires_grad_(), target, torch.tensor([1, 1, 1, 1, -180 / math.pi]).double()


def divergence_names() -> list[str]:
    matches = (re.fullmatch(r"(gd_.+)_none", name) for name in Golden(COMMITTED).names())
    return [match[1] for match in matches if match]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", divergence_names())
def test_gaussian_distances_equal_the_reference(
    golden: Golden, name: str, dtype: torch.dtype
) -> None:
    kind, fun, tau = re.fullmatch(r"gd_(.+)_(.+)_tau(\d+)", name).groups()
    loss = DIVERGENCES[kind](fun=fun, tau=float(tau), alpha=1.0, weight=1.0)
    pred, target, unit = boxes_of(golden, name, dtype)
    check(golden, name, loss(pred, target), pred, unit)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fun", ["none", "ln", "exp"])
def test_kfiou_equals_the_reference(golden: Golden, fun: str, dtype: torch.dtype) -> None:
    """Its stored gradient is that of the deltas; test_losses has those of the boxes."""
    pred, target, _ = boxes_of(golden, f"kf_{fun}", dtype)
    deltas = golden["kf_delta_pred"].to(dtype).requires_grad_()
    loss = KFIoULoss(fun=fun, beta=1 / 9, weight=1.0)
    values = loss(pred, target, deltas, golden["kf_delta_target"].to(dtype))
    check(golden, f"kf_{fun}", values, deltas, torch.ones(5).double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("mode", "factor"), [("linear", 2.0), ("square", 1.0), ("log", 1.0)])
def test_iou_losses_equal_the_reference(
    golden: Golden, mode: str, factor: float, dtype: torch.dtype
) -> None:
    """The reference's IoU is off by up to 4e-4, and wrong for identical boxes; ours is not."""
    name = f"rotated_iou_{mode}"
    pred, target, unit = boxes_of(golden, name, dtype)
    values = factor * RotatedIoULoss(mode=mode, weight=1.0)(pred, target)
    trusted = (golden["pred"] != golden["target"]).any(dim=1)
    assert bool(trusted.any()) and not bool(trusted.all())
    stored = golden[f"{name}_none"].double()
    torch.testing.assert_close(values.double()[trusted], stored[trusted], rtol=1e-3, atol=1e-3)
    assert values[~trusted].abs().max().item() <= 1e-6
    # The gradient from the stored one of the exact IoU, by central differences.
    iou = golden["iou_exact_f64"][:, None].clamp(min=1e-6)
    slope = {"linear": -torch.ones_like(iou), "square": -2 * iou, "log": -1 / iou}[mode]
    expected = factor * slope * golden["iou_grad_fd_f64"]
    (gradient,) = torch.autograd.grad(values.sum(), pred)
    size = expected.abs().amax(dim=1, keepdim=True).clamp(min=1e-3)
    error = ((gradient.double() * unit - expected) / size)[~sits_on_kink(golden)]
    assert error.abs().max().item() <= GRADIENT_TOLERANCE


def test_every_stored_divergence_is_compared() -> None:
    kinds = {re.fullmatch(r"gd_(.+)_[a-z0-9]+_tau\d+", name)[1] for name in divergence_names()}
    assert kinds == set(DIVERGENCES)
