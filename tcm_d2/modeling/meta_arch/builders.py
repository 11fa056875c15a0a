"""Meta-architectures by name: each translates a configuration into the one detector."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from tcm_d2.modeling.clip.text import format_prompts
from tcm_d2.modeling.clip.weights import CLIPConfig
from tcm_d2.modeling.dense.anchor_assigners import ATSSAssigner, MaxIoUAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator
from tcm_d2.modeling.dense.point_assigner import FCOSAssigner
from tcm_d2.modeling.heads.atss import RotatedATSSHead
from tcm_d2.modeling.heads.fcos import RotatedFCOSHead
from tcm_d2.modeling.heads.retinanet import RotatedRetinaNetHead
from tcm_d2.modeling.meta_arch.assembly import FPNConfig, TCMConfig, assemble_parts
from tcm_d2.modeling.meta_arch.one_stage import RotatedOneStageDetector


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
        return detector_arguments(cfg, fcos_head(cfg))


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
        return detector_arguments(cfg, atss_head(cfg))


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
        return detector_arguments(cfg, retinanet_head(cfg))


def detector_arguments(cfg: CfgNode, head: nn.Module) -> dict[str, Any]:
    """Return every constructor argument of the detector for a configuration and its head.

    Raises:
        ValueError: the class prompts do not match the head's number of classes.
    """
    tcm_cfg = cfg.MODEL.TCM
    return {
        **assemble_parts(
            clip=clip_config(cfg),
            tcm=tcm_config(cfg) if tcm_cfg.ENABLED else None,
            fpn=FPNConfig(
                out_channels=cfg.MODEL.ROTATED_FPN.OUT_CHANNELS,
                extra_levels_from=cfg.MODEL.ROTATED_FPN.EXTRA_LEVELS_FROM,
                relu_before_extra=cfg.MODEL.ROTATED_FPN.RELU_BEFORE_EXTRA,
            ),
            head=head,
        ),
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "aux_loss_weight": tcm_cfg.AUX_LOSS_WEIGHT,
        "aux_stride_px": tcm_cfg.AUX_STRIDE_PX,
        "channels_last": cfg.MODEL.CHANNELS_LAST,
        "checkpoint_activations": cfg.MODEL.CHECKPOINT_ACTIVATIONS,
        "compile_training": cfg.TRAIN.COMPILE,
        "compile_inference": cfg.TEST.COMPILE,
    }


def tcm_config(cfg: CfgNode) -> TCMConfig:
    """Return what the TCM module is built from."""
    tcm = cfg.MODEL.TCM
    return TCMConfig(
        decoder_width=tcm.DECODER_WIDTH,
        decoder_heads=tcm.DECODER_HEADS,
        decoder_layers=tcm.DECODER_LAYERS,
        decoder_dropout=tcm.DECODER_DROPOUT,
        visual_scale_init=tcm.VISUAL_SCALE_INIT,
        text_scale_init=tcm.TEXT_SCALE_INIT,
        temperature=tcm.TEMPERATURE,
        prompt_generator=tcm.PROMPT_GENERATOR,
        bimodal_matching=tcm.BIMODAL_MATCHING,
        bimodal_matching_init=tcm.BIMODAL_MATCHING_INIT,
    )


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
        assigner=ATSSAssigner(topk=head.ATSS_TOPK, iou_rounding=head.ASSIGNER_IOU),
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
            iou_rounding=head.ASSIGNER_IOU,
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
