"""The whole small TCM-FCOS against the reference: features, losses, predictions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tcm_d2.checkpoint.convert import convert_mmrotate_state_dict
from tests.parity.detector import (
    gradient_norms,
    make_batch,
    make_model,
    small_config,
    train_without_dropout,
)
from tests.parity.golden import Golden, relative_error, unmatched_detections

# Sums over cancelling terms, for which the reference's own float32 IoU is too coarse: compared
# with a float64 run of our code instead.
COARSE_IN_REFERENCE = ("head.angle_predictor.bias", "head.angle_scale.scale")


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Golden:
    return Golden(golden_dir / "g_e2e_fcos.npz")


def fcos_model(golden: Golden) -> nn.Module:
    return make_model(small_config(), golden.below("sd"))


def test_features(golden: Golden) -> None:
    model = fcos_model(golden).eval()
    with torch.no_grad():
        images = model.preprocess_images(make_batch(golden, with_targets=False)).tensor
        features = model.backbone(images)
        tokens = model.attention_pool(features["res5"])
        text = model.text_encoder(model.tcm.context, None)
        prompted = model.tcm(tokens.global_NC, tokens.dense_NCHW, text)
        pyramid, score_map = model.features(images)
        output = model.head(pyramid)
    errors = {
        "c4": relative_error(features["res4"], golden["eval_backbone_c4"]),
        "c5": relative_error(features["res5"], golden["eval_backbone_c5"]),
        "global": relative_error(tokens.global_NC, golden["eval_attnpool_global"]),
        "dense": relative_error(tokens.dense_NCHW, golden["eval_attnpool_local"]),
        "text": relative_error(text, golden["eval_text_embeddings"][0]),
        "text updated": relative_error(
            prompted.text_NKC, golden["eval_text_embeddings_after_diff"]
        ),
        "score map": relative_error(score_map, golden["eval_score_map"]),
        "class logits": relative_error(output.class_logits[1], golden["eval_cls_lvl1"]),
        "distances": relative_error(output.distances[1] * 16, golden["eval_reg_lvl1"]),
    }
    for level in range(5):
        errors[f"p{level + 3}"] = relative_error(pyramid[level], golden[f"eval_fpn_lvl{level}"])
    assert all(error < 1e-4 for error in errors.values()), errors


@pytest.mark.parametrize("frozen_bn", [True, False], ids=["frozen_bn", "train_bn"])
def test_losses_and_gradients(golden: Golden, frozen_bn: bool) -> None:
    prefix = "frozen_bn" if frozen_bn else "train_bn"
    model = train_without_dropout(fcos_model(golden), frozen_bn=frozen_bn)
    losses, norms = gradient_norms(model, make_batch(golden, with_targets=True))
    expected = {
        "loss_cls": ("loss_cls", 1e-4),
        # Coarse in the reference: it decodes in stride units around pixel coordinates.
        "loss_box": ("loss_bbox", 5e-4),
        "loss_centerness": ("loss_centerness", 1e-4),
        "loss_score_map": ("loss_seg", 1e-4),
    }
    assert losses.keys() == expected.keys()
    for name, (reference_name, tolerance) in expected.items():
        value = golden[f"{prefix}_loss/{reference_name}"].item()
        assert losses[name] == pytest.approx(value, rel=tolerance), name
    reference = convert_mmrotate_state_dict(golden.below(f"{prefix}_gradnorm")).state_dict
    for name, norm in norms.items():
        if name not in COARSE_IN_REFERENCE:
            assert norm == pytest.approx(reference[name].item(), rel=1e-3, abs=1e-6), name
    if not frozen_bn:
        mean = golden["train_bn_running_mean_bn1_after"]
        assert relative_error(model.backbone.bn1.running_mean, mean) < 1e-4


def test_gradients_equal_those_in_float64(golden: Golden) -> None:
    batch = make_batch(golden, with_targets=True)
    single = train_without_dropout(fcos_model(golden), frozen_bn=True)
    double = train_without_dropout(fcos_model(golden), frozen_bn=True).double()
    _, norms = gradient_norms(single, batch)
    _, exact_norms = gradient_norms(double, batch)
    for name in (
        *COARSE_IN_REFERENCE,
        "tcm.context",
        "tcm.text_scale",
        "tcm.visual_scale",
        "backbone.conv1.weight",
        "attention_pool.q_proj.weight",
        "neck.lateral_convs.2.weight",
        "head.distance_predictor.weight",
    ):
        assert norms[name] == pytest.approx(exact_norms[name], rel=5e-4, abs=1e-7), name


@pytest.mark.parametrize("image", [0, 1])
def test_predictions(golden: Golden, image: int) -> None:
    model = fcos_model(golden).eval()
    with torch.no_grad():
        instances = model(make_batch(golden, with_targets=False))[image]["instances"]
    actual = (instances.pred_boxes.tensor, instances.scores, instances.pred_classes)
    expected = (
        golden.boxes(f"pred{image}_boxes"),
        golden[f"pred{image}_scores"],
        golden[f"pred{image}_labels"].long(),
    )
    # NMS amplifies rounding errors; everything before it is compared tightly elsewhere.
    differing = unmatched_detections(actual, expected, corner_px=0.05, score=1e-4)
    assert differing <= 0.02 * len(expected[0])


def test_text_features_are_kept_until_a_weight_changes(golden: Golden) -> None:
    model = fcos_model(golden).eval()
    inputs = make_batch(golden, with_targets=False)
    calls = []
    model.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        first = model(inputs)[0]["instances"].scores
        again = model(inputs)[0]["instances"].scores
        assert len(calls) == 1 and torch.equal(first, again)
        model.tcm.context.add_(0.5)
        changed = model(inputs)[0]["instances"].scores
        assert len(calls) == 2
        model.load_state_dict(model.state_dict())
        model(inputs)
        assert len(calls) == 3
        model.train()
        model.eval()
        model(inputs)
        assert len(calls) == 4
    assert len(changed) != len(first) or not torch.equal(changed, first)
