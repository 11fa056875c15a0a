"""ATSS and RetinaNet: heads on their own, and in the detector."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from tcm_d2.config import get_tcm_config
from tcm_d2.modeling.dense.anchors import AnchorGenerator
from tcm_d2.modeling.heads.atss import ATSSOutput, RotatedATSSHead
from tcm_d2.modeling.heads.retinanet import RetinaNetOutput, RotatedRetinaNetHead
from tcm_d2.ops import paired_iou_rotated
from tests.modeling.small_clip import build_head
from tests.modeling.test_one_stage import make_input, tiny_config, two_inputs

KINDS = ["atss", "retinanet"]
LOSSES = {
    "atss": {"loss_cls", "loss_box", "loss_centerness"},
    "retinanet": {"loss_cls", "loss_box"},
}


def set_head(cfg: CfgNode, kind: str) -> CfgNode:
    head = cfg.MODEL.ROTATED_HEAD
    cfg.MODEL.ROTATED_FPN.EXTRA_LEVELS_FROM = "input"
    cfg.MODEL.ROTATED_FPN.RELU_BEFORE_EXTRA = False
    if kind == "atss":
        cfg.MODEL.META_ARCHITECTURE = "TCMRotatedATSS"
        head.BOX_LOSS_MODE, head.BOX_LOSS_WEIGHT = "linear", 2.0
    else:
        cfg.MODEL.META_ARCHITECTURE = "TCMRotatedRetinaNet"
        head.NORM, head.ANCHOR_SCALES_PER_OCTAVE, head.ANCHOR_RATIOS = "", 3, [1.0, 0.5, 2.0]
    return cfg


def make_head(kind: str) -> RotatedATSSHead | RotatedRetinaNetHead:
    cfg = set_head(get_tcm_config(), kind)
    cfg.MODEL.ROTATED_FPN.OUT_CHANNELS = cfg.MODEL.ROTATED_HEAD.CHANNELS = 32
    cfg.MODEL.ROTATED_HEAD.NUM_CLASSES = 3
    cfg.MODEL.ROTATED_HEAD.NUM_CONVS = 1
    return build_head(cfg)


def features(num_images: int = 2, size: int = 32) -> list[torch.Tensor]:
    sizes = [size, size // 2, size // 4, size // 8, size // 16]
    return [torch.randn(num_images, 32, s, s) for s in sizes]


BOXES = torch.tensor([[40.0, 40.0, 50.0, 20.0, 30.0], [90.0, 80.0, 30.0, 30.0, 0.0]])
CLASSES = torch.tensor([0, 2])
EMPTY = torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_with_objects", [0, 1, 2])
def test_gradient_reaches_every_parameter(kind: str, num_with_objects: int) -> None:
    head = make_head(kind)
    targets = [(BOXES, CLASSES)] * num_with_objects + [EMPTY] * (2 - num_with_objects)
    losses = head.losses(head(features()), [t[0] for t in targets], [t[1] for t in targets])
    assert set(losses) == LOSSES[kind]
    assert all(loss.shape == () for loss in losses.values())
    if num_with_objects == 0:
        assert all(value == 0 for name, value in losses.items() if name != "loss_cls")
    sum(losses.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_two_equal_images_give_the_loss_of_one(kind: str) -> None:
    head = make_head(kind)
    one = features(num_images=1)
    two = [level.repeat(2, 1, 1, 1) for level in one]
    single = head.losses(head(one), [BOXES], [CLASSES])
    double = head.losses(head(two), [BOXES] * 2, [CLASSES] * 2)
    for name, value in single.items():
        assert double[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_ignored_anchors_do_not_count() -> None:
    head = make_head("retinanet")
    output = head(features(num_images=1))
    ignored = head.assigner.assign(head.make_grid(output), [BOXES]).ignored_index
    assert len(ignored) > 0
    # The ignored anchors of level 0, whose cells are the first rows of the flattened logits.
    ignored = ignored[ignored < 32 * 32 * 9]
    logits = [level.detach().clone() for level in output.class_logits]
    flat = logits[0][0].view(9, 3, -1)
    flat[ignored % 9, :, ignored // 9] += 5.0
    changed = RetinaNetOutput(logits, output.deltas)
    before, after = (head.losses(o, [BOXES], [CLASSES])["loss_cls"] for o in (output, changed))
    assert len(ignored) > 0
    assert after.item() == pytest.approx(before.item(), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_output_gives_the_objects_back(kind: str) -> None:
    head = make_head(kind)
    output = head(features(num_images=1))
    grid = head.make_grid(output)
    assigned = head.assigner.assign(grid, [BOXES])
    deltas = torch.zeros(len(grid.boxes), 5)
    logits = torch.full((len(grid.boxes), 3), -20.0)
    index, owner = assigned.location_index, assigned.ground_truth_index
    deltas[index] = head.coder.encode(grid.boxes[index], BOXES[owner])
    logits[index, CLASSES[owner]] = 20.0

    def to_levels(values: torch.Tensor) -> list[torch.Tensor]:
        per_cell = grid.sides_wh.shape[1] * values.shape[1]
        levels = values.split(grid.level_num_anchors)
        return [
            v.reshape(h, w, per_cell).permute(2, 0, 1)[None]
            for v, (h, w) in zip(levels, grid.level_sizes_hw)
        ]

    perfect: ATSSOutput | RetinaNetOutput
    if kind == "atss":
        centerness = to_levels(torch.full((len(grid.boxes), 1), 20.0))
        perfect = ATSSOutput(to_levels(logits), to_levels(deltas), centerness)
    else:
        perfect = RetinaNetOutput(to_levels(logits), to_levels(deltas))
    instances = head.predict(perfect, [(256, 256)])[0]
    order = instances.pred_classes.argsort()
    assert instances.pred_classes[order].tolist() == [0, 2]
    assert paired_iou_rotated(instances.pred_boxes.tensor[order], BOXES).min() > 0.999
    assert head.losses(perfect, [BOXES], [CLASSES])["loss_box"] < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_predicted_centres_lie_in_the_unpadded_image(kind: str) -> None:
    head = make_head(kind)
    head.score_threshold = 0.0
    with torch.no_grad():
        head.delta_predictor.bias.fill_(3.0)
        instances = head.predict(head(features()), [(256, 256), (100, 70)])[1]
    centers = instances.pred_boxes.tensor[:, :2]
    assert instances.image_size == (100, 70)
    assert (centers >= 0).all() and (centers <= torch.tensor([69.0, 99.0])).all()


def test_names_of_parameters_are_fixed() -> None:
    atss = {name.split(".")[0] for name in make_head("atss").state_dict()}
    assert atss == {
        "class_tower",
        "box_tower",
        "class_predictor",
        "delta_predictor",
        "centerness_predictor",
        "delta_scales",
    }
    retinanet = {name.split(".")[0] for name in make_head("retinanet").state_dict()}
    assert retinanet == {"class_tower", "box_tower", "class_predictor", "delta_predictor"}


def test_wrong_number_of_levels_or_anchors_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 5 levels, got 4"):
        make_head("retinanet")(features()[:4])
    cfg = set_head(get_tcm_config(), "atss")
    cfg.MODEL.ROTATED_HEAD.ANCHOR_RATIOS = [1.0, 2.0]
    with pytest.raises(ValueError, match="expected 1 anchor per cell, got 2"):
        build_head(cfg)


def test_anchors_fit_the_configuration() -> None:
    generator: AnchorGenerator = make_head("retinanet").anchor_generator
    assert generator.num_anchors == 9
    assert make_head("atss").anchor_generator.num_anchors == 1


@pytest.mark.parametrize("kind", KINDS)
def test_detector_trains_everything_and_in_bfloat16(kind: str) -> None:
    model = build_model(set_head(tiny_config(), kind)).train()
    losses = model(two_inputs())
    assert set(losses) == LOSSES[kind] | {"loss_score_map"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([*two_inputs(), make_input([], [])])
    assert all(v.dtype == torch.float32 and torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize("kind", KINDS)
def test_detector_overfits_two_images(kind: str) -> None:
    model = build_model(set_head(tiny_config(), kind)).train()
    inputs = two_inputs()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=4e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(model(inputs).values()).backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
    # Batch statistics of two images, not the running ones, so that 60 steps are enough.
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    with torch.no_grad():
        outputs = model(inputs)
    for output, target in zip(outputs, inputs, strict=True):
        truth = target["instances"]
        best = output["instances"][: len(truth)]
        order, true_order = best.pred_classes.argsort(), truth.gt_classes.argsort()
        assert best.pred_classes[order].tolist() == truth.gt_classes[true_order].tolist()
        iou = paired_iou_rotated(best.pred_boxes.tensor[order], truth.gt_boxes.tensor[true_order])
        assert iou.min() > 0.5
        assert best.scores.min() > 0.3
