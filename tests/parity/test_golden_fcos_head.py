"""The rotated FCOS head against the reference's numbers."""

from __future__ import annotations

import pytest
import torch

from tcm_d2.checkpoint.convert import convert_head_name
from tcm_d2.modeling.dense.anchors import make_point_grid
from tcm_d2.modeling.dense.point_assigner import FCOSAssigner
from tcm_d2.modeling.dense.point_coder import DistanceAnglePointCoder
from tcm_d2.modeling.heads.fcos import FCOSOutput, RotatedFCOSHead
from tcm_d2.modeling.losses import RotatedIoULoss
from tcm_d2.modeling.losses.centerness import centerness_targets
from tcm_d2.structures.angles import canonicalize_boxes
from tcm_d2.structures.conversions import boxes_to_le90, boxes_to_quads
from tests.conftest import DATA_DIR
from tests.parity.golden import Golden, check_selection, relative_error, unmatched_detections

STRIDES_PX = [8, 16, 32, 64, 128]
BOUNDS_PX = [64, 128, 256, 512]
NUM_CLASSES = 15


def make_assigner() -> FCOSAssigner:
    return FCOSAssigner(
        strides_px=STRIDES_PX, regress_range_bounds_px=BOUNDS_PX, center_sampling_radius=1.5
    )


def make_head(golden: Golden) -> RotatedFCOSHead:
    head = RotatedFCOSHead(
        in_channels=32,
        channels=32,
        num_classes=NUM_CLASSES,
        num_convs=4,
        norm="GN",
        strides_px=STRIDES_PX,
        prior_prob=0.01,
        distance_bias_init=0.0,
        assigner=make_assigner(),
        focal_loss_gamma=2.0,
        focal_loss_alpha=0.25,
        box_loss=RotatedIoULoss(mode="log", weight=1.0),
        score_threshold=0.05,
        topk_candidates=2000,
        nms_threshold=0.1,
        max_detections=2000,
    )
    weights = {
        convert_head_name(n, RotatedFCOSHead.foreign_names): v
        for n, v in golden.below("sd").items()
    }
    head.load_state_dict(weights, strict=True)
    return head


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden(DATA_DIR / "golden" / "f_head_fcos.npz")


@pytest.fixture(scope="module")
def head(golden: Golden) -> RotatedFCOSHead:
    return make_head(golden)


def features(golden: Golden) -> list[torch.Tensor]:
    return [golden[f"feat_lvl{level}"] for level in range(5)]


def ground_truths(golden: Golden) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    boxes = [golden.boxes(f"gt{i}_boxes") for i in range(2)]
    return boxes, [golden[f"gt{i}_labels"].long() for i in range(2)]


def test_raw_outputs(golden: Golden, head: RotatedFCOSHead) -> None:
    output = head(features(golden))
    for level in range(5):
        assert relative_error(output.class_logits[level], golden[f"train_cls_lvl{level}"]) < 1e-4
        assert relative_error(output.distances[level], golden[f"train_bbox_lvl{level}"]) < 1e-4
        assert relative_error(output.angle_rad[level], golden[f"train_angle_lvl{level}"]) < 1e-4
        assert (
            relative_error(output.centerness_logits[level], golden[f"train_centerness_lvl{level}"])
            < 1e-4
        )


def test_losses_and_gradients(golden: Golden) -> None:
    head = make_head(golden)
    inputs = [feature.requires_grad_() for feature in features(golden)]
    losses = head.losses(head(inputs), *ground_truths(golden))
    assert losses["loss_cls"].item() == pytest.approx(golden["loss/loss_cls"].item(), rel=1e-4)
    # The reference decodes in stride units around pixel coordinates: coarse in float32.
    assert losses["loss_box"].item() == pytest.approx(golden["loss/loss_bbox"].item(), rel=5e-4)
    assert losses["loss_centerness"].item() == pytest.approx(
        golden["loss/loss_centerness"].item(), rel=1e-4
    )
    sum(losses.values()).backward()
    assert relative_error(inputs[2].grad, golden["feat_grad_lvl2"]) < 5e-3
    abs_sums = {
        convert_head_name(n, RotatedFCOSHead.foreign_names): v
        for n, v in golden.below("grad_abssum").items()
    }
    for name, parameter in head.named_parameters():
        got, expected = parameter.grad.double().abs().sum().item(), abs_sums[name].item()
        assert got == pytest.approx(expected, rel=5e-3, abs=1e-6), name


def test_gradients_equal_those_in_float64(golden: Golden) -> None:
    gradients = []
    for dtype in (torch.float32, torch.float64):
        head = make_head(golden).to(dtype)
        boxes, classes = ground_truths(golden)
        output = head([feature.to(dtype) for feature in features(golden)])
        losses = head.losses(output, [b.to(dtype) for b in boxes], classes)
        sum(losses.values()).backward()
        gradients.append({name: p.grad for name, p in head.named_parameters()})
    for name, gradient in gradients[0].items():
        assert relative_error(gradient, gradients[1][name]) < 1e-4, name


def test_losses_without_ground_truth(golden: Golden, head: RotatedFCOSHead) -> None:
    empty_boxes = [torch.zeros(0, 5)] * 2
    empty_classes = [torch.zeros(0, dtype=torch.int64)] * 2
    losses = head.losses(head(features(golden)), empty_boxes, empty_classes)
    assert losses["loss_cls"].item() == pytest.approx(
        golden["loss_empty/loss_cls"].item(), rel=1e-4
    )
    assert losses["loss_box"].item() == 0
    assert losses["loss_centerness"].item() == 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


@pytest.mark.parametrize("image", [0, 1])
def test_predictions_before_nms(golden: Golden, head: RotatedFCOSHead, image: int) -> None:
    with torch.no_grad():
        output = head(features(golden))
        grid = head.make_grid(output)
        expected = (
            golden.boxes(f"prenms{image}_boxes"),
            golden[f"prenms{image}_scores"],
            golden[f"prenms{image}_labels"].long(),
        )
        check_selection(
            lambda: head.candidates(output, grid, image, (256, 256)),
            expected,
            corner_px=0.01,
            score=1e-4,
        )


@pytest.mark.parametrize("image", [0, 1])
def test_predictions_after_nms(golden: Golden, head: RotatedFCOSHead, image: int) -> None:
    with torch.no_grad():
        instances = head.predict(head(features(golden)), [(256, 256)] * 2)[image]
    actual = (instances.pred_boxes.tensor, instances.scores, instances.pred_classes)
    expected = (
        golden.boxes(f"pred{image}_boxes"),
        golden[f"pred{image}_scores"],
        golden[f"pred{image}_labels"].long(),
    )
    # NMS amplifies differences of one rounding error; the reference's also lets classes interact.
    differing = unmatched_detections(actual, expected, corner_px=0.01, score=1e-4)
    assert differing <= 0.01 * len(expected[0])
    assert (instances.scores.diff() <= 0).all()


def test_targets() -> None:
    golden = Golden(DATA_DIR / "golden" / "e_fcos_targets.npz")
    grid = make_point_grid(
        [(s, s) for s in (32, 16, 8, 4, 2)], STRIDES_PX, device=torch.device("cpu")
    )
    boxes = [golden.boxes(f"gt{i}_boxes") for i in range(5)]
    classes = torch.cat([golden[f"gt{i}_labels"].long() for i in range(5)])
    assigned = make_assigner().assign(grid, boxes)
    num_points = len(grid.points_xy)
    gt = torch.cat(boxes)[assigned.ground_truth_index]
    square = gt[:, 2] == gt[:, 3]
    labels = torch.full((5 * num_points,), NUM_CLASSES)
    labels[assigned.location_index] = classes[assigned.ground_truth_index]
    points_index = assigned.location_index % num_points
    distances, angle_rad = DistanceAnglePointCoder().encode(grid.points_xy[points_index], gt)
    # The reference turns square boxes by a quarter: the same rectangle, its sides renamed.
    distances[square] = distances[square].roll(1, dims=1)
    le90 = boxes_to_le90(torch.cat(boxes), square_quirk=False)[assigned.ground_truth_index, 4]
    torch.testing.assert_close(angle_rad, le90, rtol=0, atol=1e-5)
    start = 0
    for level, count in enumerate(grid.level_num_points):
        here = labels.view(5, num_points)[:, start : start + count].flatten()
        assert torch.equal(here, golden[f"fcos_labels_lvl{level}"].long()), f"level {level}"
        chosen = (points_index >= start) & (points_index < start + count)
        expected = golden[f"fcos_pos_bbox_targets_lvl{level}"] * STRIDES_PX[level]
        if len(expected):
            assert relative_error(distances[chosen], expected) < 1e-5
            centerness = centerness_targets(distances[chosen])
            expected = golden[f"fcos_pos_centerness_lvl{level}"]
            torch.testing.assert_close(centerness, expected, rtol=1e-4, atol=1e-4)
        start += count


def test_coder() -> None:
    golden = Golden(DATA_DIR / "golden" / "d_coders_boxes.npz")
    coder = DistanceAnglePointCoder()
    encoded = golden["dap_encoded"]
    distances, angle_rad = coder.encode(golden["dap_points"], golden.boxes("dap_gt"))
    assert relative_error(distances, encoded[:, :4]) < 1e-5
    wrapped = torch.remainder(angle_rad - encoded[:, 4] + 1.5, torch.pi) - 1.5
    assert wrapped.abs().max() < 1e-5
    decode_in, decoded = golden["dap_dec_in"], golden.boxes("dap_decoded")
    boxes = coder.decode(golden["dap_points"], decode_in[:, :4], decode_in[:, 4])
    # Only the angle wraps in a decoded box: compare as rectangles.
    quads, expected = boxes_to_quads(canonicalize_boxes(boxes)), boxes_to_quads(decoded)
    shifts = [(quads - expected.roll(s, dims=1)).abs().amax(dim=(1, 2)) for s in range(4)]
    assert torch.stack(shifts).amin(dim=0).max() < 1e-5 * expected.abs().max()


def test_output_is_a_named_tuple_of_lists(golden: Golden, head: RotatedFCOSHead) -> None:
    assert isinstance(head(features(golden)), FCOSOutput)
