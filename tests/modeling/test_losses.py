"""Losses of boxes: values by hand, gradients, finite numbers everywhere, the contract."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tcm_d2.modeling.dense.delta_coder import DeltaBoxCoder
from tcm_d2.modeling.losses import (
    BoxLoss,
    GWDLoss,
    JDLoss,
    KFIoULoss,
    KLDLoss,
    L1Loss,
    ProbIoULoss,
    RotatedDIoULoss,
    RotatedGIoULoss,
    RotatedIoULoss,
    SmoothL1Loss,
    box_loss_sum,
)
from tests.ops.exactness import families
from tests.ops.oracle import FAMILIES, box_pairs

BOX = torch.tensor([[10.0, 10.0, 8.0, 4.0, 0.0]])
HALF = torch.tensor([[10.0, 11.0, 8.0, 2.0, 0.0]])  # the lower half of BOX: IoU 0.5
RAW = {"fun": "none", "tau": 0.0, "alpha": 1.0, "weight": 1.0}
LOSSES: dict[str, BoxLoss] = {
    **{
        f"iou {mode}": RotatedIoULoss(mode=mode, weight=1.0) for mode in ("log", "linear", "square")
    },
    "giou": RotatedGIoULoss(weight=1.0),
    "diou": RotatedDIoULoss(weight=1.0),
    "gwd": GWDLoss(fun="log1p", tau=1.0, alpha=1.0, normalize=True, weight=1.0),
    "gwd raw": GWDLoss(**RAW, normalize=False),
    "kld": KLDLoss(fun="log1p", tau=1.0, alpha=1.0, sqrt=False, symmetry="none", weight=1.0),
    "kld raw": KLDLoss(**RAW, sqrt=False, symmetry="none"),
    "kld max": KLDLoss(fun="sqrt", tau=2.0, alpha=2.0, sqrt=True, symmetry="max", weight=1.0),
    "kld min": KLDLoss(fun="log1p", tau=0.0, alpha=1.0, sqrt=True, symmetry="min", weight=1.0),
    "jd": JDLoss(fun="log1p", tau=1.0, alpha=1.0, sqrt=False, weight=1.0),
    **{f"kfiou {f}": KFIoULoss(fun=f, beta=1 / 9, weight=1.0) for f in ("none", "ln", "exp")},
    "probiou l1": ProbIoULoss(form="l1", weight=1.0),
    "probiou l2": ProbIoULoss(form="l2", weight=1.0),
    "l1": L1Loss(weight=1.0),
    "smooth l1": SmoothL1Loss(beta=1 / 9, weight=1.0),
}
OF_GAUSSIANS = [n for n in LOSSES if n.split()[0] in ("gwd", "kld", "jd", "kfiou", "probiou")]


def of_boxes(name: str, pred: Tensor, target: Tensor) -> Tensor:
    """Return the losses of boxes; deltas are centres and sides as they are."""
    given = {
        "boxes": (pred, target),
        "deltas": (pred, target),
        "boxes and deltas": (pred, target, pred, target),
    }
    return LOSSES[name](*given[LOSSES[name].takes])


def gradient(name: str, pred: Tensor, target: Tensor) -> Tensor:
    leaf = pred.clone().requires_grad_()
    (grad,) = torch.autograd.grad(of_boxes(name, leaf, target).sum(), leaf)
    return grad


@pytest.mark.parametrize(
    ("mode", "expected"), [("log", math.log(2)), ("linear", 0.5), ("square", 0.75)]
)
def test_iou_loss_by_hand(mode: str, expected: float) -> None:
    assert of_boxes(f"iou {mode}", HALF, BOX).item() == pytest.approx(expected, rel=1e-5)


def test_disjoint_boxes_have_a_gradient_in_all_losses_but_that_of_the_iou() -> None:
    apart = torch.tensor([[22.0, 18.0, 8.0, 4.0, 0.0]])
    for name in LOSSES:
        # Pulled to the left and up: the loss falls against its gradient.
        pull = gradient(name, apart, BOX)[0, :2]
        assert bool((pull == 0).all() if name.startswith("iou") else (pull > 0).all()), name


def test_losses_of_distributions_by_hand() -> None:
    """Half sides 4, 1 and 4, 2, shifted by 1 along the shorter ones."""
    expected = {
        "gwd raw": math.sqrt(1 + 1),
        # KL(target || prediction) = (1 / 1 + (4 - 1 - ln 4)) / 2
        "kld raw": (1 + 4 - 1 - math.log(4)) / 2,
        # Areas 16 and 32; the product's variances are 8 and 4 / 5.
        "kfiou none": 1 - 1 / 18 + 1 - (v := 4 * math.sqrt(8 * 0.8)) / (16 + 32 - v),
        # det(P + T) = 32 * 5 / 9, det P det T = 16 * 64 / 81; shift^2 3 / 5 / 4
        "probiou l2": 0.75 / 5 + 0.5 * math.log(160 / (4 * math.sqrt(16 * 64))),
    }
    for name, value in expected.items():
        assert of_boxes(name, HALF, BOX).item() == pytest.approx(value, rel=1e-5), name
    l2 = expected["probiou l2"]
    l1 = of_boxes("probiou l1", HALF, BOX).item()
    assert l1 == pytest.approx(math.sqrt(1 - math.exp(-l2)), rel=1e-5)


def covariance(boxes: Tensor) -> Tensor:
    """Return (Q, 2, 2) with the squares of the half sides as variances."""
    angle_rad = torch.deg2rad(boxes[:, 4])
    cos, sin = angle_rad.cos(), angle_rad.sin()
    axes = torch.stack([cos, sin, -sin, cos], dim=1).view(-1, 2, 2)
    return axes @ torch.diag_embed((boxes[:, 2:4] / 2) ** 2) @ axes.transpose(1, 2)


def test_losses_of_distributions_equal_their_matrix_forms() -> None:
    pred, target = box_pairs("random", 200, torch.float64)
    p, t = covariance(pred), covariance(target)
    shift = (pred - target)[:, :2, None]
    trace = lambda m: m.diagonal(dim1=1, dim2=2).sum(1)  # noqa: E731
    root = (trace(p @ t) + 2 * (p.det() * t.det()).sqrt()).sqrt()
    gwd = ((shift**2).sum((1, 2)) + trace(p) + trace(t) - 2 * root).sqrt()
    kld = (trace(p.inverse() @ t) + (shift.mT @ p.inverse() @ shift)[:, 0, 0]) / 2 - 1
    kld = kld + (p.det() / t.det()).log() / 2
    mean = (p + t) / 6  # of variances side^2 / 12
    bhattacharyya = (shift.mT @ mean.inverse() @ shift)[:, 0, 0] / 8
    bhattacharyya = bhattacharyya + (9 * mean.det() / (p.det() * t.det()).sqrt()).log() / 2
    for name, expected in {"gwd raw": gwd, "kld raw": kld, "probiou l2": bhattacharyya}.items():
        torch.testing.assert_close(of_boxes(name, pred, target), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OF_GAUSSIANS)
def test_the_name_of_a_rectangle_does_not_matter(name: str) -> None:
    pred, target = box_pairs("random", 100, torch.float64)
    expected = of_boxes(name, pred, target)
    sides = LOSSES[name]
    other = pred[:, [0, 1, 3, 2, 4]] + pred.new_tensor([0, 0, 0, 0, 90.0])
    for renamed in (other, pred + pred.new_tensor([0, 0, 0, 0, 180.0])):
        given = (pred, target) if sides.takes == "boxes and deltas" else ()
        torch.testing.assert_close(sides(renamed, target, *given), expected)


@pytest.mark.parametrize("name", OF_GAUSSIANS)
def test_a_square_learns_no_angle_from_distributions(name: str) -> None:
    square = torch.tensor([[10.0, 10.0, 8.0, 8.0, 20.0]])
    turned = square + torch.tensor([[0.0, 0.0, 0.0, 0.0, -15.0]])
    assert gradient(name, turned, square)[0, 4] == 0
    for exact in ("iou log", "giou", "diou"):
        assert gradient(exact, turned, square)[0, 4] < 0


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_central_differences(name: str) -> None:
    pred, target = box_pairs("random", 20, torch.float64)
    if name in ("iou log", "iou linear", "iou square", "giou", "diou"):
        pred = target + 0.1 * (pred - target)  # kinks are rare, and not at these pairs
    pred[:, 4], target[:, 4] = pred[:, 4] % 180, target[:, 4] % 180
    assert torch.autograd.gradcheck(
        lambda boxes: of_boxes(name, boxes, target), pred.requires_grad_(), atol=1e-6, rtol=1e-4
    )


def every_pair(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return pairs of all families of tests/ops."""
    pairs = [box_pairs(family, 100, dtype) for family in FAMILIES]
    for family in families.FAMILIES:
        drawn = families.draw_pairs(family, 100, seed=7)
        pairs.append(tuple(torch.from_numpy(boxes).to(dtype) for boxes in drawn))  # type: ignore[arg-type]
    first, second = (torch.cat(side) for side in zip(*pairs, strict=True))
    far = second + second.new_tensor([1e5, -1e5, 0, 0, 0])
    nothing = second * second.new_tensor([1, 1, 0, 0, 1])
    return (
        torch.cat([first, first, first, second, nothing, nothing, nothing]),
        torch.cat([second, far, nothing, first, first, far, nothing]),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_finite_everywhere(name: str, dtype: torch.dtype) -> None:
    """In half precision too, under autocast: the loss is computed in float32."""
    pred, target = every_pair(dtype)
    is_half = dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half):
        loss = of_boxes(name, pred.requires_grad_(), target)
    (grad,) = torch.autograd.grad(loss.sum(), pred)
    assert loss.dtype == (torch.float32 if is_half else dtype)
    assert bool(loss.isfinite().all()) and bool(grad.isfinite().all())
    assert loss.min().item() >= -1e-6


@pytest.mark.parametrize("name", ["kld", "kld raw", "jd", "gwd raw", "probiou l2", "kfiou ln"])
def test_float32_keeps_the_digits_of_needles(name: str) -> None:
    """The determinant of a covariance matrix in float32 is off by percents at 1 : 1000."""
    pred, target = (torch.from_numpy(b) for b in families.draw_pairs("aspect 1:1000", 200, seed=3))
    pred, target = pred.float(), target.float()
    exact = of_boxes(name, pred.double(), target.double())
    error = (of_boxes(name, pred, target).double() - exact).abs() / exact.clamp(min=1e-3)
    assert error.max().item() <= 1e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RotatedIoULoss(mode="cubic", weight=1.0), "mode: expected one of log, linear"),
        (lambda: GWDLoss(**{**RAW, "fun": "log"}, normalize=True), "fun: expected one of log1p"),
        (lambda: JDLoss(**{**RAW, "tau": 0.5}, sqrt=True), "tau: expected 0 .* got 0.5"),
        (lambda: KLDLoss(**RAW, sqrt=True, symmetry="mean"), "symmetry: expected one of none, max"),
        (lambda: KFIoULoss(fun="log", beta=0.1, weight=1.0), "fun: expected one of none, ln"),
        (lambda: ProbIoULoss(form="l3", weight=1.0), "form: expected one of l1, l2, got 'l3'"),
    ],
)
def test_unknown_settings_are_named(make: Callable[[], BoxLoss], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def never() -> tuple[Tensor, Tensor]:
    raise AssertionError("computed what the loss does not take")


def test_sum_computes_only_what_the_loss_takes() -> None:
    boxes, deltas = (HALF, BOX), (torch.ones(1, 5), torch.zeros(1, 5))
    weights = torch.tensor([0.5])
    iou, l1 = RotatedIoULoss(mode="linear", weight=3.0), L1Loss(weight=2.0)
    value = box_loss_sum(iou, boxes=lambda: boxes, deltas=never, pair_weights=weights)
    assert value.item() == pytest.approx(3 * 0.5 * 0.5)
    assert box_loss_sum(l1, boxes=never, deltas=lambda: deltas).item() == 10
    assert box_loss_sum(l1, boxes=never, deltas=lambda: deltas, pair_weights=weights).item() == 5
    both = box_loss_sum(LOSSES["kfiou none"], boxes=lambda: (BOX, BOX), deltas=lambda: deltas)
    assert both.item() == pytest.approx(2 * (1 - 1 / 18) + 2 / 3)


def test_deltas_that_give_the_target_cost_nothing() -> None:
    anchors, target = box_pairs("random", 50, torch.float64)
    target[:, 4] = (target[:, 4] + 90) % 180 - 90
    deltas = DeltaBoxCoder().encode(anchors, target)
    for name in ("l1", "smooth l1"):
        assert box_loss_sum(LOSSES[name], boxes=never, deltas=lambda: (deltas, deltas)) == 0


class _Reduced(L1Loss):
    def __call__(self, pred_deltas: Tensor, target_deltas: Tensor) -> Tensor:
        return super().__call__(pred_deltas, target_deltas).mean()


class _Corners(L1Loss):
    takes = "corners"


def test_a_loss_that_breaks_the_contract_is_named() -> None:
    def deltas() -> tuple[Tensor, Tensor]:
        return torch.ones(3, 5), torch.zeros(3, 5)

    with pytest.raises(ValueError, match=r"_Reduced: expected one loss for each of 3 pairs, got"):
        box_loss_sum(_Reduced(weight=1.0), boxes=never, deltas=deltas)
    with pytest.raises(ValueError, match=r"_Corners.takes: expected one of 'boxes', .*'corners'"):
        box_loss_sum(_Corners(weight=1.0), boxes=never, deltas=deltas)
