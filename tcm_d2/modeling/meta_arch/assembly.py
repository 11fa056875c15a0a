"""Put the detector together from what its parts are to be: the one place both doors go through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from tcm_d2.modeling.clip.weights import CLIPConfig, build_clip_towers
from tcm_d2.modeling.meta_arch.one_stage import RotatedOneStageDetector
from tcm_d2.modeling.neck.fpn import RotatedFPN
from tcm_d2.modeling.tcm.tcm import TCM

# What the pyramid is built on.
NECK_INPUTS = ("res3", "res4", "res5")
# The level that the score map joins.
SCORE_MAP_LEVEL = "res5"


@dataclass(frozen=True, kw_only=True)
class TCMConfig:
    """What the TCM module is built from, besides CLIP's widths.

    Attributes:
        decoder_width: of the context decoders, as are the next three.
        decoder_heads: attention heads.
        decoder_layers: number of layers.
        decoder_dropout: in [0, 1).
        visual_scale_init: initial value of the visual prompt's scale s.
        text_scale_init: initial value of the text update's scale gamma.
        temperature: tau; the score map is cosine / tau.
        prompt_generator: "none" (as published for DOTA), "image" (as in the CVPR paper) or "meta"
            (FastTCM).
        bimodal_matching: move class embeddings along each image's global token (FastTCM).
        bimodal_matching_init: start of its matrix, "identity" or "ones".
    """

    decoder_width: int
    decoder_heads: int
    decoder_layers: int
    decoder_dropout: float
    visual_scale_init: float
    text_scale_init: float
    temperature: float
    prompt_generator: str
    bimodal_matching: bool
    bimodal_matching_init: str


@dataclass(frozen=True, kw_only=True)
class FPNConfig:
    """What the pyramid is built from, besides its inputs.

    Attributes:
        out_channels: of every level.
        extra_levels_from: input of P6, "output" (P5) or "input" (C5 with the score map).
        relu_before_extra: before P7's convolution.
    """

    out_channels: int
    extra_levels_from: Literal["input", "output"]
    relu_before_extra: bool


def build_detector(
    *,
    clip: CLIPConfig,
    tcm: TCMConfig | None,
    fpn: FPNConfig,
    head: nn.Module,
    pixel_mean: list[float],
    pixel_std: list[float],
    aux_loss_weight: float,
    aux_stride_px: int,
    channels_last: bool,
    checkpoint_activations: bool,
    compile_training: bool,
    compile_inference: bool,
) -> RotatedOneStageDetector:
    """Build the detector from its configuration objects and a head.

    Args:
        clip, tcm, fpn, head: see `assemble_parts`.
        pixel_mean: this and all others, see `RotatedOneStageDetector`.

    Raises:
        ValueError: see `assemble_parts`.
    """
    return RotatedOneStageDetector(
        **assemble_parts(clip=clip, tcm=tcm, fpn=fpn, head=head),
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        aux_loss_weight=aux_loss_weight,
        aux_stride_px=aux_stride_px,
        channels_last=channels_last,
        checkpoint_activations=checkpoint_activations,
        compile_training=compile_training,
        compile_inference=compile_inference,
    )


def assemble_parts(
    *, clip: CLIPConfig, tcm: TCMConfig | None, fpn: FPNConfig, head: nn.Module
) -> dict[str, Any]:
    """Return the detector's modules as arguments of `RotatedOneStageDetector`.

    Args:
        clip: what the CLIP towers are built from; ``with_text`` goes with ``tcm``.
        tcm: None for the plain CLIP-ResNet detector.
        fpn: what the pyramid is built from.
        head: a rotated one-stage head for pyramids of ``fpn.out_channels`` channels.

    Raises:
        ValueError: ``clip.with_text`` and ``tcm`` disagree, the class prompts are not as many as
            the head's classes, or a part refuses its configuration.
    """
    if clip.with_text != (tcm is not None):
        raise ValueError(
            f"clip.with_text: expected {tcm is not None} (tcm is "
            f"{'given' if tcm is not None else 'None'}), got {clip.with_text}; switch both"
        )
    if tcm is not None:
        check_prompts(clip.class_prompts, head.num_classes)
    towers = build_clip_towers(clip)
    in_channels = {name: towers.image.out_channels[name] for name in NECK_INPUTS}
    tcm_module: nn.Module | None = None
    if tcm is not None:
        in_channels[SCORE_MAP_LEVEL] += len(clip.class_prompts)
        tcm_module = TCM(
            joint_width=towers.embed_dim,
            token_width=towers.text_width,
            num_context=towers.num_context,
            decoder_width=tcm.decoder_width,
            decoder_heads=tcm.decoder_heads,
            decoder_layers=tcm.decoder_layers,
            decoder_dropout=tcm.decoder_dropout,
            visual_scale_init=tcm.visual_scale_init,
            text_scale_init=tcm.text_scale_init,
            temperature=tcm.temperature,
            prompt_generator=tcm.prompt_generator,
            bimodal_matching=tcm.bimodal_matching,
            bimodal_matching_init=tcm.bimodal_matching_init,
        )
    neck = RotatedFPN(
        in_channels=in_channels,
        out_channels=fpn.out_channels,
        extra_levels_from=fpn.extra_levels_from,
        relu_before_extra=fpn.relu_before_extra,
    )
    return {
        "backbone": towers.image,
        "attention_pool": towers.attention_pool,
        "text_encoder": towers.text,
        "tcm": tcm_module,
        "neck": neck,
        "head": head,
    }


def check_prompts(class_prompts: Sequence[str], num_classes: int) -> None:
    """Raise ValueError when the prompts are not one per output of the head."""
    if len(class_prompts) != num_classes:
        raise ValueError(
            f"class prompts: expected {num_classes} (outputs of the head), got "
            f"{len(class_prompts)}; set MODEL.TCM.CLASS_NAMES and MODEL.ROTATED_HEAD.NUM_CLASSES "
            "(lazy: model.clip.class_prompts.class_names and model.head.num_classes) to the "
            "classes of the data"
        )
