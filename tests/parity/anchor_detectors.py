"""The golden end-to-end models with anchor-based heads; shared by their parity tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tcm_d2.checkpoint.convert import convert_mmrotate_state_dict
from tcm_d2.config import load_config
from tests.conftest import REPO_DIR
from tests.parity.anchor_heads import FullAngles, stored_detections
from tests.parity.detector import (
    gradient_norms,
    make_batch,
    make_model,
    small_config,
    train_without_dropout,
)
from tests.parity.golden import Golden, relative_error, unmatched_detections
from tests.parity.heads import HeadKind

SHARED_TOWERS = ("backbone.", "text_encoder.")


def load_golden(golden_dir: Path, kind: HeadKind) -> Golden:
    return Golden(golden_dir / f"g_e2e_{kind}.npz")


def make_detector(golden_dir: Path, kind: HeadKind) -> nn.Module:
    """Return the small model of the published configuration, with the reference's rounding."""
    towers = Golden(golden_dir / "g_e2e_fcos.npz").below("sd")
    weights = {n: v for n, v in towers.items() if n.startswith(SHARED_TOWERS)}
    weights.update(load_golden(golden_dir, kind).below("sd"))
    cfg = load_config(REPO_DIR / "configs" / f"tcm_{kind}.yaml")
    cfg.MODEL.CLIP = small_config().MODEL.CLIP
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROTATED_HEAD.ASSIGNER_IOU = "reference"
    return make_model(cfg, weights)


def check_features(model: nn.Module, golden: Golden) -> None:
    """Assert that the score map, the pyramid and a level's raw outputs equal the reference's."""
    with torch.no_grad():
        images = model.preprocess_images(make_batch(golden, with_targets=False)).tensor
        pyramid, score_map = model.features(images)
        output = model.head(pyramid)
    errors = {
        "score map": relative_error(score_map, golden["eval_score_map"]),
        "class logits": relative_error(output.class_logits[1], golden["eval_cls_lvl1"]),
        "deltas": relative_error(output.deltas[1], golden["eval_reg_lvl1"]),
    }
    for level in range(5):
        errors[f"p{level + 3}"] = relative_error(pyramid[level], golden[f"eval_fpn_lvl{level}"])
    assert all(error < 1e-4 for error in errors.values()), errors


def check_losses_and_gradients(model: nn.Module, golden: Golden, *, frozen_bn: bool) -> None:
    """Assert that losses and gradient norms equal the reference's."""
    prefix = "frozen_bn" if frozen_bn else "train_bn"
    model = train_without_dropout(model, frozen_bn=frozen_bn)
    model.head.assigner = FullAngles(model.head.assigner, golden)
    losses, norms = gradient_norms(model, make_batch(golden, with_targets=True))
    names = {"loss_box": "loss_bbox", "loss_score_map": "loss_seg"}
    total = sum(losses.values())
    for name, value in losses.items():
        expected = golden[f"{prefix}_loss/{names.get(name, name)}"].sum().item()
        assert value == pytest.approx(expected, rel=1e-4), name
    assert total == pytest.approx(golden[f"{prefix}_loss_total"].item(), rel=1e-4)
    reference = convert_mmrotate_state_dict(
        {**golden.below("sd"), **golden.below(f"{prefix}_gradnorm")}
    ).state_dict
    for name, norm in norms.items():
        assert norm == pytest.approx(reference[name].item(), rel=1e-3, abs=1e-6), name
    if not frozen_bn:
        mean = golden["train_bn_running_mean_bn1_after"]
        assert relative_error(model.backbone.bn1.running_mean, mean) < 1e-4


def check_float64_gradients(make: Callable[[], nn.Module], golden: Golden) -> None:
    """Assert that some gradients equal those of the same model in float64."""
    batch = make_batch(golden, with_targets=True)
    _, norms = gradient_norms(train_without_dropout(make(), frozen_bn=True), batch)
    _, exact_norms = gradient_norms(train_without_dropout(make(), frozen_bn=True).double(), batch)
    for name in (
        "tcm.context",
        "tcm.text_scale",
        "tcm.visual_scale",
        "backbone.conv1.weight",
        "attention_pool.q_proj.weight",
        "neck.extra_convs.0.weight",
        "head.delta_predictor.weight",
        "head.class_predictor.bias",
    ):
        assert norms[name] == pytest.approx(exact_norms[name], rel=5e-4, abs=1e-7), name


def check_detections(model: nn.Module, golden: Golden, image: int) -> None:
    """Assert that detections nearly equal the reference's (NMS amplifies rounding errors)."""
    with torch.no_grad():
        instances = model(make_batch(golden, with_targets=False))[image]["instances"]
    actual = (instances.pred_boxes.tensor, instances.scores, instances.pred_classes)
    expected = stored_detections(golden, f"pred{image}")
    differing = unmatched_detections(actual, expected, corner_px=0.05, score=1e-4)
    assert differing <= 0.02 * len(expected[0])
