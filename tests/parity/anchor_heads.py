"""The golden anchor-based heads; shared by their parity tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tcm_d2.checkpoint.convert import convert_head_name
from tcm_d2.config import load_config
from tcm_d2.modeling.dense.anchor_assigners import AnchorAssignment, ATSSAssigner, MaxIoUAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator, AnchorGrid
from tcm_d2.modeling.dense.point_assigner import Assignment
from tcm_d2.modeling.heads.atss import RotatedATSSHead
from tcm_d2.modeling.heads.retinanet import RotatedRetinaNetHead
from tcm_d2.modeling.losses import L1Loss, RotatedIoULoss
from tcm_d2.structures.conversions import le90_to_boxes
from tests.conftest import DATA_DIR, REPO_DIR
from tests.parity.golden import Golden, check_selection, relative_error, unmatched_detections
from tests.parity.heads import FOREIGN_NAMES, HeadKind

STRIDES_PX = [8, 16, 32, 64, 128]
NUM_CLASSES = 15


class FullAngles:
    """The given assigner, for the golden boxes with all digits of their angles.

    Its rounding depends on the last bit of an angle in radians, which float32 degrees (those of
    Detectron2's RotatedBoxes, among others) keep for nine of ten angles only.
    """

    def __init__(self, assigner: ATSSAssigner | MaxIoUAssigner, golden: Golden) -> None:
        self.assigner = assigner
        self.boxes = full_boxes(golden, 2)

    def assign(self, grid: AnchorGrid, boxes: list[Tensor]) -> Assignment | AnchorAssignment:
        if not any(len(given) for given in boxes):
            return self.assigner.assign(grid, boxes)
        for given, full in zip(boxes, self.boxes, strict=True):
            torch.testing.assert_close(given.double(), full, rtol=1e-6, atol=1e-6)
        return self.assigner.assign(grid, self.boxes)


def open_golden(request: pytest.FixtureRequest, full: str, committed: str) -> Golden:
    """Return the arrays that a fixture's parameter, "committed" or "full", names."""
    if request.param == "committed":
        return Golden(DATA_DIR / "golden" / f"{committed}.npz")
    return Golden(request.getfixturevalue("golden_dir") / f"{full}.npz")


def full_boxes(golden: Golden, num_images: int) -> list[Tensor]:
    """Return the ground truths of each image in float64."""
    return [le90_to_boxes(golden[f"gt{i}_boxes"].double()) for i in range(num_images)]


def make_generator(kind: HeadKind) -> AnchorGenerator:
    return AnchorGenerator(
        strides_px=STRIDES_PX,
        base_side_strides=4.0,
        scales_per_octave=1 if kind == "atss" else 3,
        ratios=[1.0] if kind == "atss" else [1.0, 0.5, 2.0],
    )


def make_grid(kind: HeadKind, level_sizes_hw: list[tuple[int, int]]) -> AnchorGrid:
    return make_generator(kind).make_grid(level_sizes_hw, torch.device("cpu"))


def make_assigner(kind: HeadKind, iou_rounding: str = "reference") -> ATSSAssigner | MaxIoUAssigner:
    """Return the assigner of the published configuration, with the reference's rounding."""
    head = load_config(REPO_DIR / "configs" / f"tcm_{kind}.yaml").MODEL.ROTATED_HEAD
    if kind == "atss":
        return ATSSAssigner(topk=head.ATSS_TOPK, iou_rounding=iou_rounding)
    return MaxIoUAssigner(
        positive_iou=head.POSITIVE_IOU_THRESH,
        negative_iou=head.NEGATIVE_IOU_THRESH,
        min_positive_iou=head.MIN_POSITIVE_IOU,
        iou_rounding=iou_rounding,
    )


def make_head(kind: HeadKind, golden: Golden) -> RotatedATSSHead | RotatedRetinaNetHead:
    """Return the head with the reference's weights."""
    common = dict(
        in_channels=32,
        channels=32,
        num_classes=NUM_CLASSES,
        num_convs=4,
        prior_prob=0.01,
        anchor_generator=make_generator(kind),
        assigner=FullAngles(make_assigner(kind), golden),
        focal_loss_gamma=2.0,
        focal_loss_alpha=0.25,
        score_threshold=0.05,
        topk_candidates=2000,
        nms_threshold=0.1,
        max_detections=2000,
    )
    head: RotatedATSSHead | RotatedRetinaNetHead
    if kind == "atss":
        head = RotatedATSSHead(
            **common,
            norm="GN",
            box_loss=RotatedIoULoss(mode="linear", weight=2.0),
        )
    else:
        head = RotatedRetinaNetHead(**common, norm="", box_loss=L1Loss(weight=1.0))
    weights = {convert_head_name(n, FOREIGN_NAMES[kind]): v for n, v in golden.below("sd").items()}
    head.load_state_dict(weights, strict=True)
    return head


def features(golden: Golden) -> list[Tensor]:
    return [golden[f"feat_lvl{level}"] for level in range(5)]


def image_size_hw(golden: Golden) -> tuple[int, int]:
    height, width = golden["feat_lvl0"].shape[-2:]
    return height * STRIDES_PX[0], width * STRIDES_PX[0]


def ground_truths(golden: Golden) -> tuple[list[Tensor], list[Tensor]]:
    boxes = [golden.boxes(f"gt{i}_boxes") for i in range(2)]
    return boxes, [golden[f"gt{i}_labels"].long() for i in range(2)]


def check_losses(losses: dict[str, Tensor], golden: Golden, prefix: str) -> None:
    """Assert that the losses equal the reference's, which come per level."""
    for name, value in losses.items():
        expected = golden[f"{prefix}/{name.replace('box', 'bbox')}"].sum().item()
        assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-8), name
    if f"{prefix}_total" in golden:
        total = sum(value.item() for value in losses.values())
        assert total == pytest.approx(golden[f"{prefix}_total"].item(), rel=1e-5)


def check_gradients(head: nn.Module, inputs: list[Tensor], golden: Golden, kind: HeadKind) -> None:
    """Assert that gradients of the total loss equal the reference's."""
    assert relative_error(inputs[2].grad, golden["feat_grad_lvl2"]) < 1e-4
    sums = torch.stack([feature.grad.double().abs().sum() for feature in inputs])
    assert relative_error(sums, golden["feat_grad_abssum"]) < 1e-4
    expected = {
        convert_head_name(n, FOREIGN_NAMES[kind]): v for n, v in golden.below("grad_abssum").items()
    }
    for name, parameter in head.named_parameters():
        got = parameter.grad.double().abs().sum().item()
        assert abs(got - expected[name].item()) <= 1e-4 * expected[name].item() + 1e-9, name


def check_candidates(head: nn.Module, golden: Golden, image: int) -> None:
    """Assert that predictions before NMS equal the reference's as sets of rectangles."""
    if f"prenms{image}_boxes" not in golden:
        pytest.skip(f"the small copy lacks image {image}")
    with torch.no_grad():
        output = head(features(golden))
        grid = head.make_grid(output)
        check_selection(
            lambda: head.candidates(output, grid, image, image_size_hw(golden)),
            stored_detections(golden, f"prenms{image}"),
            corner_px=0.001,
            score=1e-5,
        )


def check_predictions(head: nn.Module, golden: Golden, image: int) -> None:
    """Assert that predictions after NMS nearly equal the reference's (NMS amplifies rounding)."""
    if f"pred{image}_boxes" not in golden:
        pytest.skip(f"the small copy lacks image {image}")
    with torch.no_grad():
        instances = head.predict(head(features(golden)), [image_size_hw(golden)] * 2)[image]
    actual = (instances.pred_boxes.tensor, instances.scores, instances.pred_classes)
    expected = stored_detections(golden, f"pred{image}")
    assert (
        unmatched_detections(actual, expected, corner_px=0.01, score=1e-4)
        <= len(expected[0]) // 100
    )
    assert (instances.scores.diff() <= 0).all()


def stored_detections(golden: Golden, name: str) -> tuple[Tensor, Tensor, Tensor]:
    labels = golden[f"{name}_labels"].long()
    return golden.boxes(f"{name}_boxes"), golden[f"{name}_scores"], labels


def gradients_of_total_loss(
    head: nn.Module, golden: Golden, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the gradient of every parameter, computed in ``dtype``."""
    head = head.to(dtype)
    boxes, classes = ground_truths(golden)
    output = head([feature.to(dtype) for feature in features(golden)])
    sum(head.losses(output, [b.to(dtype) for b in boxes], classes).values()).backward()
    return {name: p.grad.double() for name, p in head.named_parameters()}
