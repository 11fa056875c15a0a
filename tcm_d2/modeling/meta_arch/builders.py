"""Meta-architectures by name: each translates a configuration into the one detector."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from tcm_d2.modeling.clip.text import format_prompts
from tcm_d2.modeling.clip.weights import CLIPConfig, build_clip_towers
from tcm_d2.modeling.dense.anchor_assigners import ATSSAssigner, MaxIoUAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator
from tcm_d2.modeling.dense.assigners import FCOSAssigner
from tcm_d2.modeling.heads.atss import RotatedATSSHead
from tcm_d2.modeling.heads.fcos import RotatedFCOSHead
from tcm_d2.modeling.heads.retinanet import RotatedRetinaNetHead
from tcm_d2.modeling.meta_arch.one_stage import RotatedOneStageDetector
from tcm_d2.modeling.neck.fpn import RotatedFPN
from tcm_d2.modeling.tcm.tcm import TCM


@META_ARCH_REGISTRY.register()
class TCMRotatedFCOS(RotatedOneStageDetector):
    """TCM with the rotated FCOS head."""

    @configurable
    def __init__(self, **parts: Any) -> None:
        """Take the same arguments as RotatedOneStageDetector, or a configuration."""
        super().__init__(**parts)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments for a Detectron2 configuration."""
        return {**detector_parts(cfg), "head": fcos_head(cfg)}


@META_ARCH_REGISTRY.register()
class TCMRotatedATSS(RotatedOneStageDetector):
    """TCM with the rotated ATSS head."""

    @configurable
    def __init__(self, **parts: Any) -> None:
        """Take the same arguments as RotatedOneStageDetector, or a configuration."""
        super().__init__(**parts)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments for a Detectron2 configuration."""
        return {**detector_parts(cfg), "head": atss_head(cfg)}


@META_ARCH_REGISTRY.register()
class TCMRotatedRetinaNet(RotatedOneStageDetector):
    """TCM with the rotated RetinaNet head."""

    @configurable
    def __init__(self, **parts: Any) -> None:
        """Take the same arguments as RotatedOneStageDetector, or a configuration."""
        super().__init__(**parts)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments for a Detectron2 configuration."""
        return {**detector_parts(cfg), "head": retinanet_head(cfg)}


def detector_parts(cfg: CfgNode) -> dict[str, Any]:
    """Return every constructor argument of the detector but the head.

    Raises:
        ValueError: the class prompts do not match the head's number of classes.
    """
    tcm_cfg = cfg.MODEL.TCM
    num_classes = cfg.MODEL.ROTATED_HEAD.NUM_CLASSES
    if tcm_cfg.ENABLED and len(tcm_cfg.CLASS_NAMES) != num_classes:
        raise ValueError(
            f"MODEL.TCM.CLASS_NAMES: expected {num_classes} prompts (MODEL.ROTATED_HEAD."
            f"NUM_CLASSES), got {len(tcm_cfg.CLASS_NAMES)}; set both to the classes of the data"
        )
    towers = build_clip_towers(clip_config(cfg))
    in_channels = {name: towers.image.out_channels[name] for name in ("res3", "res4", "res5")}
    tcm: nn.Module | None = None
    if tcm_cfg.ENABLED:
        in_channels["res5"] += num_classes
        tcm = TCM(
            joint_width=towers.embed_dim,
            token_width=towers.text_width,
            num_context=towers.num_context,
            decoder_width=tcm_cfg.DECODER_WIDTH,
            decoder_heads=tcm_cfg.DECODER_HEADS,
            decoder_layers=tcm_cfg.DECODER_LAYERS,
            decoder_dropout=tcm_cfg.DECODER_DROPOUT,
            visual_scale_init=tcm_cfg.VISUAL_SCALE_INIT,
            text_scale_init=tcm_cfg.TEXT_SCALE_INIT,
            temperature=tcm_cfg.TEMPERATURE,
            prompt_generator=tcm_cfg.PROMPT_GENERATOR,
        )
    return {
        "backbone": towers.image,
        "attention_pool": towers.attention_pool,
        "text_encoder": towers.text,
        "tcm": tcm,
        "neck": RotatedFPN(
            in_channels=in_channels,
            out_channels=cfg.MODEL.ROTATED_FPN.OUT_CHANNELS,
            extra_levels_from=cfg.MODEL.ROTATED_FPN.EXTRA_LEVELS_FROM,
            relu_before_extra=cfg.MODEL.ROTATED_FPN.RELU_BEFORE_EXTRA,
        ),
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "aux_loss_weight": tcm_cfg.AUX_LOSS_WEIGHT,
        "aux_stride_px": tcm_cfg.AUX_STRIDE_PX,
        "channels_last": cfg.MODEL.CHANNELS_LAST,
    }


def clip_config(cfg: CfgNode) -> CLIPConfig:
    """Return what the CLIP towers are built from."""
    clip, tcm = cfg.MODEL.CLIP, cfg.MODEL.TCM
    return CLIPConfig(
        name=clip.NAME,
        weights=clip.WEIGHTS,
        embed_dim=clip.EMBED_DIM,
        vision_layers=clip.VISION_LAYERS,
        vision_width=clip.VISION_WIDTH,
        text_width=clip.TEXT_WIDTH,
        text_heads=clip.TEXT_HEADS,
        text_layers=clip.TEXT_LAYERS,
        vocab_size=clip.VOCAB_SIZE,
        context_length=clip.CONTEXT_LENGTH,
        position_image_size_px=clip.POSITION_IMAGE_SIZE_PX,
        norm=clip.NORM,
        with_text=tcm.ENABLED,
        class_prompts=format_prompts(tcm.CLASS_NAMES, tcm.PROMPT_TEMPLATE),
        tokens_per_class=tcm.TOKENS_PER_CLASS,
    )


def fcos_head(cfg: CfgNode) -> RotatedFCOSHead:
    """Return the rotated FCOS head for a configuration."""
    head = cfg.MODEL.ROTATED_HEAD
    return RotatedFCOSHead(
        in_channels=cfg.MODEL.ROTATED_FPN.OUT_CHANNELS,
        channels=head.CHANNELS,
        num_classes=head.NUM_CLASSES,
        num_convs=head.NUM_CONVS,
        norm=head.NORM,
        strides_px=head.STRIDES_PX,
        prior_prob=head.PRIOR_PROB,
        distance_bias_init=head.DISTANCE_BIAS_INIT,
        assigner=FCOSAssigner(
            strides_px=head.STRIDES_PX,
            regress_range_bounds_px=head.REGRESS_RANGE_BOUNDS_PX,
            center_sampling_radius=head.CENTER_SAMPLING_RADIUS,
        ),
        focal_loss_gamma=head.FOCAL_LOSS_GAMMA,
        focal_loss_alpha=head.FOCAL_LOSS_ALPHA,
        box_loss_mode=head.BOX_LOSS_MODE,
        box_loss_weight=head.BOX_LOSS_WEIGHT,
        score_threshold=head.SCORE_THRESH,
        topk_candidates=head.TOPK_CANDIDATES,
        nms_threshold=head.NMS_THRESH,
        max_detections=head.MAX_DETECTIONS,
    )


def atss_head(cfg: CfgNode) -> RotatedATSSHead:
    """Return the rotated ATSS head for a configuration."""
    head = cfg.MODEL.ROTATED_HEAD
    return RotatedATSSHead(
        in_channels=cfg.MODEL.ROTATED_FPN.OUT_CHANNELS,
        channels=head.CHANNELS,
        num_classes=head.NUM_CLASSES,
        num_convs=head.NUM_CONVS,
        norm=head.NORM,
        prior_prob=head.PRIOR_PROB,
        anchor_generator=anchor_generator(cfg),
        assigner=ATSSAssigner(topk=head.ATSS_TOPK),
        focal_loss_gamma=head.FOCAL_LOSS_GAMMA,
        focal_loss_alpha=head.FOCAL_LOSS_ALPHA,
        box_loss_mode=head.BOX_LOSS_MODE,
        box_loss_weight=head.BOX_LOSS_WEIGHT,
        score_threshold=head.SCORE_THRESH,
        topk_candidates=head.TOPK_CANDIDATES,
        nms_threshold=head.NMS_THRESH,
        max_detections=head.MAX_DETECTIONS,
    )


def retinanet_head(cfg: CfgNode) -> RotatedRetinaNetHead:
    """Return the rotated RetinaNet head for a configuration."""
    head = cfg.MODEL.ROTATED_HEAD
    return RotatedRetinaNetHead(
        in_channels=cfg.MODEL.ROTATED_FPN.OUT_CHANNELS,
        channels=head.CHANNELS,
        num_classes=head.NUM_CLASSES,
        num_convs=head.NUM_CONVS,
        norm=head.NORM,
        prior_prob=head.PRIOR_PROB,
        anchor_generator=anchor_generator(cfg),
        assigner=MaxIoUAssigner(
            positive_iou=head.POSITIVE_IOU_THRESH,
            negative_iou=head.NEGATIVE_IOU_THRESH,
            min_positive_iou=head.MIN_POSITIVE_IOU,
        ),
        focal_loss_gamma=head.FOCAL_LOSS_GAMMA,
        focal_loss_alpha=head.FOCAL_LOSS_ALPHA,
        box_loss_weight=head.BOX_LOSS_WEIGHT,
        score_threshold=head.SCORE_THRESH,
        topk_candidates=head.TOPK_CANDIDATES,
        nms_threshold=head.NMS_THRESH,
        max_detections=head.MAX_DETECTIONS,
    )


def anchor_generator(cfg: CfgNode) -> AnchorGenerator:
    """Return the anchors of ATSS or RetinaNet for a configuration."""
    head = cfg.MODEL.ROTATED_HEAD
    return AnchorGenerator(
        strides_px=head.STRIDES_PX,
        base_side_strides=head.ANCHOR_SIDE_STRIDES,
        scales_per_octave=head.ANCHOR_SCALES_PER_OCTAVE,
        ratios=head.ANCHOR_RATIOS,
    )
