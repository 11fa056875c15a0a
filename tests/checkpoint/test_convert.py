from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tcm_d2.checkpoint.convert import convert_mmrotate_name, convert_mmrotate_state_dict
from tcm_d2.modeling.clip.weights import build_clip_towers
from tcm_d2.modeling.neck.fpn import RotatedFPN
from tcm_d2.modeling.tcm.tcm import TCM
from tests.conftest import DATA_DIR
from tests.modeling.small_clip import SMALL_CLIP

NUM_CLASSES = 15


def read_reference_shapes() -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and kind (param, frozen, buffer) of each tensor of the full-size reference."""
    rows = {}
    for line in (DATA_DIR / "golden" / "param_names_fcos.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, shape, _, kind = line.split()
            rows[name] = (tuple(int(n) for n in shape.strip("()").split(",") if n), kind)
    return rows


def make_full_size_model() -> nn.Module:
    """Return the published model without its head, on the meta device."""
    config = replace(
        SMALL_CLIP,
        name="RN50-quickgelu",
        context_length=77,
        position_image_size_px=1024,
        class_prompts=[f"class {i}" for i in range(NUM_CLASSES)],
    )
    model = nn.Module()
    with torch.device("meta"):
        towers = build_clip_towers(config)
        model.backbone, model.attention_pool = towers.image, towers.attention_pool
        model.text_encoder = towers.text
        model.tcm = TCM(
            joint_width=towers.embed_dim,
            token_width=towers.text_width,
            num_context=towers.num_context,
            decoder_width=256,
            decoder_heads=4,
            decoder_layers=3,
            decoder_dropout=0.1,
            visual_scale_init=1e-3,
            text_scale_init=1e-4,
            temperature=0.07,
            prompt_generator="none",
        )
        in_channels = {n: towers.image.out_channels[n] for n in ("res3", "res4", "res5")}
        in_channels["res5"] += NUM_CLASSES
        model.neck = RotatedFPN(
            in_channels, out_channels=256, extra_levels_from="output", relu_before_extra=True
        )
    return model


def test_every_full_size_tensor_has_its_place() -> None:
    reference = read_reference_shapes()
    assert len(reference) > 600
    tensors = {name: torch.empty(shape, device="meta") for name, (shape, _) in reference.items()}
    converted = convert_mmrotate_state_dict(tensors)
    assert converted.unknown == []
    assert len(converted.dead) == 8
    assert all(name.startswith("prompt_generator.") for name in converted.dead)
    assert len(converted.state_dict) == len(reference) - 8
    ours = make_full_size_model().state_dict()
    theirs = {n: t for n, t in converted.state_dict.items() if not n.startswith("head.")}
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert tensor.shape == ours[name].shape, name
    assert ours["attention_pool.positional_embedding"].shape == (1025, 2048)


def test_the_same_tensors_train_as_in_the_reference() -> None:
    model = make_full_size_model()
    trainable = {n: p.requires_grad for n, p in model.named_parameters()}
    buffers = {n for n, _ in model.named_buffers()}
    for name, (_, kind) in read_reference_shapes().items():
        our_name = convert_mmrotate_name(name)
        if our_name is None or our_name.startswith("head."):
            continue
        if kind == "buffer":
            assert our_name in buffers, name
        else:
            assert trainable[our_name] == (kind == "param"), name


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
        ("backbone.conv1.weight", None),
        ("neck.fpn_convs.0.bn.weight", None),
        ("bbox_head.nothing", None),
    ],
)
def test_names(theirs: str, ours: str | None) -> None:
    assert convert_mmrotate_name(theirs) == ours


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
