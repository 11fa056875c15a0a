from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from tcm_d2.checkpoint.convert import (
    convert_clip_name,
    convert_mmrotate_name,
    convert_mmrotate_state_dict,
    convert_state_dict,
)
from tcm_d2.checkpoint.load import match_weights
from tests.checkpoint.detectors import (
    full_size_model,
    full_size_state,
    read_reference_shapes,
    reference_state,
)
from tests.conftest import DATA_DIR
from tests.parity.heads import FOREIGN_NAMES, HeadKind

KINDS: list[HeadKind] = ["fcos", "atss", "retinanet"]


def golden_names(kind: HeadKind, request: pytest.FixtureRequest) -> Path:
    """Return the list of a full-size reference's tensors; only FCOS's lies in the project."""
    own = DATA_DIR / "golden" / f"param_names_{kind}.txt"
    return own if own.is_file() else request.getfixturevalue("golden_dir") / own.name


@pytest.mark.parametrize("kind", KINDS)
def test_every_full_size_tensor_has_its_place(
    request: pytest.FixtureRequest, kind: HeadKind
) -> None:
    """Nothing is left over but the prompt generator, nothing of the model is missing."""
    reference = reference_state(golden_names(kind, request))
    assert len(reference) > 600
    own = full_size_state(kind)
    fitted, report = match_weights(own, reference, source="reference")
    assert report.is_complete and report.notes == []
    assert report.loaded == sorted(own) and len(report.dead) == 8
    assert all(name.startswith("prompt_generator.") for name in report.dead)
    assert [r.name for r in report.reshaped] == ["tcm.context"]
    assert len(own) == len(reference) - 8
    assert {n: t.shape for n, t in fitted.items()} == {n: t.shape for n, t in own.items()}
    assert own["attention_pool.positional_embedding"].shape == (1025, 2048)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tensors_train_as_in_the_reference(
    request: pytest.FixtureRequest, kind: HeadKind
) -> None:
    model = full_size_model(kind)
    trainable = {n: p.requires_grad for n, p in model.named_parameters()}
    buffers = {n for n, _ in model.named_buffers()}
    for name, (_, role) in read_reference_shapes(golden_names(kind, request)).items():
        our_name = convert_mmrotate_name(name, FOREIGN_NAMES[kind])
        if our_name is None:
            continue
        if role == "buffer":
            assert our_name in buffers, name
        else:
            assert trainable[our_name] == (role == "param"), name


@pytest.mark.parametrize("without_tcm", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_plain_mmrotate_detector_of_full_size(
    request: pytest.FixtureRequest, kind: HeadKind, without_tcm: bool
) -> None:
    """Head and pyramid load; the ordinary ResNet stays out, though most of its shapes would fit."""
    theirs = plain_mmrotate_state(golden_names(kind, request))
    own = full_size_state(kind, MODEL__TCM__ENABLED=not without_tcm)
    fitted, report = match_weights(own, theirs, source="plain")
    assert {n.partition(".")[0] for n in fitted} == {"neck", "head"}
    assert {n for n in own if n.startswith(("neck.", "head."))} == fitted.keys()
    assert report.mismatched == []
    assert len(report.dead) == 53 and all(n.endswith("num_batches_tracked") for n in report.dead)
    num_backbone = sum(n.startswith("backbone.") for n in theirs)
    assert len(report.unexpected) == num_backbone - 53
    assert all(n.startswith("backbone.") for n in report.unexpected)
    assert "an ordinary ResNet, not CLIP's" in report.notes[0]
    widened = {r.name: r.how for r in report.reshaped}
    expected = {"neck.lateral_convs.2.weight", "neck.extra_convs.0.weight"}
    if kind == "fcos":
        expected.remove("neck.extra_convs.0.weight")
    assert widened.keys() == (set() if without_tcm else expected)
    assert set(widened.values()) <= {"15 columns of the score map zero"}


def plain_mmrotate_state(names: Path) -> dict[str, Tensor]:
    """Return what mmrotate's detector without TCM holds: a ResNet-50, the same pyramid and head."""
    state = {}
    for name, tensor in reference_state(names).items():
        if name.startswith(("neck.", "bbox_head.")):
            if tensor.dim() == 4 and tensor.shape[1] == 2063:
                tensor = tensor[:, :2048]
            state[name] = tensor
    with torch.device("meta"):
        backbone = torchvision.models.resnet50().state_dict()
    backbone = {n: t for n, t in backbone.items() if not n.startswith("fc.")}
    return {**{f"backbone.{n}": t for n, t in backbone.items()}, **state}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("contexts", "tcm.context"),
        ("gamma", "tcm.text_scale"),
        ("vis_gamma", "tcm.visual_scale"),
        ("backbone.visual.layer4.0.downsample.0.weight", "backbone.layer4.0.downsample.0.weight"),
        ("backbone.visual.attnpool.k_proj.bias", "attention_pool.k_proj.bias"),
        ("text_encoder.token_embedding.weight", "text_encoder.token_embedding.weight"),
        ("vis_context_decoder.text_proj.1.bias", "tcm.visual_decoder.query_proj.1.bias"),
        (
            "text_context_decoder.decoder.2.cross_attn.proj.weight",
            "tcm.text_decoder.layers.2.cross_attn.out_proj.weight",
        ),
        ("vis_context_decoder.out_proj.1.weight", "tcm.visual_decoder.out_proj.1.weight"),
        ("neck.lateral_convs.2.conv.weight", "neck.lateral_convs.2.weight"),
        ("neck.fpn_convs.2.conv.bias", "neck.output_convs.2.bias"),
        ("neck.fpn_convs.4.conv.bias", "neck.extra_convs.1.bias"),
        ("prompt_generator.prompt_proj.0.weight", None),
        ("backbone.conv1.weight", "backbone.stem.conv1.weight"),
        ("backbone.bn1.running_var", "backbone.stem.conv1.norm.running_var"),
        ("backbone.layer1.0.conv2.weight", "backbone.res2.0.conv2.weight"),
        ("backbone.layer4.2.bn3.bias", "backbone.res5.2.conv3.norm.bias"),
        ("backbone.layer2.0.downsample.0.weight", "backbone.res3.0.shortcut.weight"),
        ("backbone.layer2.0.downsample.1.weight", "backbone.res3.0.shortcut.norm.weight"),
        ("backbone.layer2.0.attention.weight", None),
        ("neck.fpn_convs.0.bn.weight", None),
        ("bbox_head.nothing", None),
    ],
)
def test_names(theirs: str, ours: str | None) -> None:
    assert convert_mmrotate_name(theirs, FOREIGN_NAMES["fcos"]) == ours


def test_context_loses_its_leading_axis_and_the_rest_is_reported() -> None:
    weights = {
        "contexts": torch.randn(1, 69, 512),
        "gamma": torch.randn(4),
        "prompt_generator.prompt_proj.0.weight": torch.ones(4),
        "optimizer": torch.ones(1),
    }
    converted = convert_mmrotate_state_dict(weights)
    assert converted.state_dict.keys() == {"tcm.context", "tcm.text_scale"}
    assert torch.equal(converted.state_dict["tcm.context"], weights["contexts"][0])
    assert converted.dead == ["prompt_generator.prompt_proj.0.weight"]
    assert converted.unknown == ["optimizer"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("visual.conv1.weight", "backbone.conv1.weight"),
        ("visual.attnpool.positional_embedding", "attention_pool.positional_embedding"),
        ("positional_embedding", "text_encoder.positional_embedding"),
        ("text_projection", "text_encoder.text_projection"),
        ("ln_final.bias", "text_encoder.ln_final.bias"),
        ("logit_scale", None),
        ("attn_mask", None),
        ("transformer_decoder.weight", None),
    ],
)
def test_clip_names(theirs: str, ours: str | None) -> None:
    assert convert_clip_name(theirs) == ours


def test_pyramid_over_other_stages_is_left_out() -> None:
    """A pyramid that starts at C2: number 1 there is not number 1 here."""
    state = {f"neck.lateral_convs.{i}.conv.weight": torch.ones(2, 2, 1, 1) for i in range(4)}
    state["neck.fpn_convs.1.conv.weight"] = torch.ones(2, 2, 3, 3)
    state["bbox_head.retina_cls.bias"] = torch.zeros(15)
    own = {f"neck.lateral_convs.{i}.weight": torch.zeros(2, 2, 1, 1) for i in range(3)}
    own["neck.output_convs.1.weight"] = torch.ones(2, 2, 3, 3)
    own["head.class_predictor.bias"] = torch.zeros(15)
    fitted, report = match_weights(own, state, source="w.pth")
    assert fitted.keys() == {"head.class_predictor.bias"}
    assert "the file's pyramid is over 4 stages, the model's over 3: neck.*" in report.notes[0]


def test_unknown_heads_are_left_out() -> None:
    state = {"bbox_head.gfl_cls.weight": torch.ones(1), "bbox_head.cls_convs.0.conv.weight": 1}
    converted = convert_state_dict(state)
    assert converted.state_dict == {} and "none of ATSS, FCOS, RetinaNet" in converted.notes[0]
