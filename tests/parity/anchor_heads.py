"""The golden anchor-based heads; shared by their parity tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tcm_d2.checkpoint.head_names import HeadKind, convert_head_name
from tcm_d2.modeling.dense.anchor_assigners import AnchorAssignment, ATSSAssigner, MaxIoUAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator, AnchorGrid
from tcm_d2.modeling.heads.atss import RotatedATSSHead
from tcm_d2.modeling.heads.retinanet import RotatedRetinaNetHead
from tcm_d2.ops import box_iou_rotated
from tests.conftest import DATA_DIR
from tests.parity.golden import Golden, relative_error, unmatched_detections

LEVEL_SIZES_HW = [(s, s) for s in (32, 16, 8, 4, 2)]
STRIDES_PX = [8, 16, 32, 64, 128]
NUM_CLASSES = 15
SIZE_HW = (256, 256)
# Anchors whose true IoU with an object is this near are ties to the reference's float32 IoU.
TIE = 1e-6


class StoredAssigner:
    """Return the reference's own assignment, whatever the boxes.

    The reference's float32 IoU gives slightly different values to anchors that contain an object
    wholly and have one area, that is one IoU, and its "equals the best" then picks some of them.
    The stored assignments were made by that float32 formula, redone to the last bit: it equals
    `iou_mmcv` of golden `a` and all assignments of golden `e`.
    """

    def __init__(self, tag: str, num_ground_truths: list[int]) -> None:
        """Args:
        tag: "f" (head) or "g" (end to end).
        num_ground_truths: of each image.
        """
        stored = Golden(DATA_DIR / "golden" / "retinanet_reference_assignment.npz")
        owners, first = [], 0
        for image, count in enumerate(num_ground_truths):
            label = stored[f"{tag}_assign{image}_gt_inds"].long()  # 0 none, -1 ignored, k > 0
            owners.append(torch.where(label > 0, label + first, label))
            first += count
        self.label = torch.cat(owners)

    def assign(self, grid: AnchorGrid, boxes: list[Tensor]) -> AnchorAssignment:
        assert len(self.label) == len(boxes) * len(grid.boxes)
        location = (self.label > 0).nonzero(as_tuple=True)[0]
        ignored = (self.label == -1).nonzero(as_tuple=True)[0]
        return AnchorAssignment(location, self.label[location] - 1, ignored)


def count_ties(actual: Tensor, expected: Tensor, grid: AnchorGrid, boxes: Tensor) -> int:
    """Return how many labels of one image differ, all of them by ties (asserted).

    Args:
        actual: (R,) 0 none, -1 ignored, k > 0 the k-th box.
        expected: likewise, the reference's.
        grid: the anchors.
        boxes: (M, 5) ground truths of the image.
    """
    differing = (actual != expected).nonzero(as_tuple=True)[0]
    overlaps = box_iou_rotated(boxes, grid.boxes)  # (M, R)
    for anchor in differing:
        tied = overlaps[:, anchor] >= overlaps.amax(dim=1) - TIE
        # Whoever won, won by a tie, or is what the thresholds alone say.
        best, owner = overlaps[:, anchor].max(dim=0)
        by_threshold = -1 if 0.4 <= best < 0.5 else int(owner) + 1 if best >= 0.5 else 0
        allowed = {by_threshold, *(tied.nonzero().squeeze(1) + 1).tolist()}
        assert {int(actual[anchor]), int(expected[anchor])} <= allowed, f"anchor {anchor}"
        assert tied.any(), f"anchor {anchor}"
    return len(differing)


def make_generator(kind: HeadKind) -> AnchorGenerator:
    return AnchorGenerator(
        strides_px=STRIDES_PX,
        base_side_strides=4.0,
        scales_per_octave=1 if kind == "atss" else 3,
        ratios=[1.0] if kind == "atss" else [1.0, 0.5, 2.0],
    )


def make_grid(kind: HeadKind) -> AnchorGrid:
    return make_generator(kind).make_grid(LEVEL_SIZES_HW, torch.device("cpu"))


def make_max_iou_assigner() -> MaxIoUAssigner:
    return MaxIoUAssigner(positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0)


def make_head(kind: HeadKind, golden: Golden) -> RotatedATSSHead | RotatedRetinaNetHead:
    """Return the head with the reference's weights."""
    common = dict(
        in_channels=32,
        channels=32,
        num_classes=NUM_CLASSES,
        num_convs=4,
        prior_prob=0.01,
        anchor_generator=make_generator(kind),
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
            assigner=ATSSAssigner(topk=9),
            box_loss_mode="linear",
            box_loss_weight=2.0,
        )
    else:
        head = RotatedRetinaNetHead(
            **common, norm="", assigner=make_max_iou_assigner(), box_loss_weight=1.0
        )
    weights = {convert_head_name(n, kind): v for n, v in golden.below("sd").items()}
    head.load_state_dict(weights, strict=True)
    return head


def features(golden: Golden) -> list[Tensor]:
    return [golden[f"feat_lvl{level}"] for level in range(5)]


def ground_truths(golden: Golden) -> tuple[list[Tensor], list[Tensor]]:
    boxes = [golden.boxes(f"gt{i}_boxes") for i in range(2)]
    return boxes, [golden[f"gt{i}_labels"].long() for i in range(2)]


def check_losses(losses: dict[str, Tensor], golden: Golden, prefix: str) -> None:
    """Assert that the losses equal the reference's, which come per level."""
    for name, value in losses.items():
        expected = golden[f"{prefix}/{name.replace('box', 'bbox')}"].sum().item()
        assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-8), name


def check_gradients(head: nn.Module, inputs: list[Tensor], golden: Golden, kind: HeadKind) -> None:
    """Assert that gradients of the total loss equal the reference's."""
    assert relative_error(inputs[2].grad, golden["feat_grad_lvl2"]) < 1e-4
    sums = torch.stack([feature.grad.double().abs().sum() for feature in inputs])
    assert relative_error(sums, golden["feat_grad_abssum"]) < 1e-4
    expected = {convert_head_name(n, kind): v for n, v in golden.below("grad_abssum").items()}
    for name, parameter in head.named_parameters():
        got = parameter.grad.double().abs().sum().item()
        assert abs(got - expected[name].item()) <= 1e-4 * expected[name].item() + 1e-9, name


def check_candidates(head: nn.Module, golden: Golden, image: int) -> None:
    """Assert that predictions before NMS equal the reference's as sets."""
    with torch.no_grad():
        output = head(features(golden))
        actual = head.candidates(output, head.anchor_grid(output), image, SIZE_HW)
    expected = stored_detections(golden, f"prenms{image}")
    assert len(actual[0]) == len(expected[0])
    assert unmatched_detections(actual, expected, corner_px=0.001, score=1e-5) == 0


def check_predictions(head: nn.Module, golden: Golden, image: int) -> None:
    """Assert that predictions after NMS nearly equal the reference's (NMS amplifies rounding)."""
    with torch.no_grad():
        instances = head.predict(head(features(golden)), [SIZE_HW] * 2)[image]
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
