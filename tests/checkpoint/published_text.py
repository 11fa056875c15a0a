"""Configuration texts as mmrotate stores them, of 1.x and of 0.x, for published detectors."""

from __future__ import annotations

from typing import Literal

AngleVersion = Literal["le90", "le135", "oc"]
# What the published RetinaNet of each version says about its deltas.
_CODERS = {
    "le90": "norm_factor=None, edge_swap=True, proj_xy=True",
    "le135": "norm_factor=1, edge_swap=False, proj_xy=True",
    "oc": "norm_factor=None, edge_swap=False, proj_xy=False",
}
_STAGES_1X = ("bbox_head_init", "bbox_head_refine")
_BACKBONE = """
    backbone=dict(
        type='{scope}ResNet',
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),"""
_TEST = """
    test_cfg=dict(
        nms_pre=2000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict({nms}=0.1),
        max_per_img=2000)"""
_PIXELS_1X = """
    data_preprocessor=dict(
        type='mmdet.DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32),"""
_PIXELS_0X = """
img_norm_cfg = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [dict(type='Normalize', **img_norm_cfg), dict(type='Pad', size_divisor=32)]
"""


def anchor_text(
    head: str, version: AngleVersion, *, is_0x: bool = False, start_level: int = 1
) -> str:
    """Return the text of an anchor-based detector.

    Args:
        head: mmrotate's type, such as ``RotatedRetinaHead``.
        version: the coder is that of the published detector of that angle version.
        is_0x: as mmrotate 0.x writes it.
        start_level: of the pyramid.
    """
    coder, anchors, key = ("DeltaXYWHTRBBoxCoder", "FakeRotatedAnchorGenerator", "angle_version")
    if is_0x:
        coder, anchors, key = ("DeltaXYWHAOBBoxCoder", "RotatedAnchorGenerator", "angle_range")
    scales, ratios = (1, [1.0]) if "ATSS" in head else (3, [1.0, 0.5, 2.0])
    strides = [2 ** (2 + start_level + level) for level in range(5)]
    return _text(
        f"""
    neck=dict(
        type='{"" if is_0x else "mmdet."}FPN',
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,
        start_level={start_level},
        add_extra_convs='on_input',
        num_outs=5),
    bbox_head=dict(
        type='{head}',
        num_classes=15,
        anchor_generator=dict(
            type='{anchors}',
            {"" if is_0x else f"angle_version='{version}',"}
            octave_base_scale=4,
            scales_per_octave={scales},
            ratios={ratios},
            strides={strides}),
        bbox_coder=dict(
            type='{coder}',
            {key}='{version}',
            {_CODERS[version]},
            target_means=(0.0, 0.0, 0.0, 0.0, 0.0),
            target_stds=(1.0, 1.0, 1.0, 1.0, 1.0))),""",
        is_0x=is_0x,
    )


def s2anet_text(*, is_0x: bool = False) -> str:
    """Return the text of S2A-Net, le135."""
    text = anchor_text("S2AHead", "le135", is_0x=is_0x)
    first, second = ("fam_head", "odm_head") if is_0x else _STAGES_1X
    start = text.index("    bbox_head=dict(")
    end = text.index("    test_cfg=")
    octaves = (
        "octave_base_scale=4,\n            scales_per_octave=3,\n            ratios=[1.0, 0.5, 2.0]"
    )
    head = text[start:end].replace(octaves, "scales=[4],\n            ratios=[1.0]")
    assert "scales=[4]" in head
    stage = head.strip().removeprefix("bbox_head=").rstrip(",")
    refine = stage if is_0x else f"[{stage}]"
    return f"{text[:start]}    {first}={stage},\n    {second}={refine},\n{text[end:]}"


def r3det_text(*, is_0x: bool = False, num_stages: int = 1) -> str:
    """Return the text of R3Det, oc.

    Args:
        is_0x: as mmrotate 0.x writes it.
        num_stages: of refinement.
    """
    text = anchor_text("RotatedRetinaHead" if is_0x else "R3Head", "oc", is_0x=is_0x)
    start, end = text.index("    bbox_head=dict("), text.index("    test_cfg=")
    stage = text[start:end].strip().removeprefix("bbox_head=").rstrip(",")
    first, second = ("bbox_head", "refine_heads") if is_0x else _STAGES_1X
    refine = ", ".join([stage] * num_stages)
    return f"{text[:start]}    {first}={stage},\n    {second}=[{refine}],\n{text[end:]}"


def fcos_text(*, is_0x: bool = False, more: str = "") -> str:
    """Return the text of rotated FCOS.

    Args:
        is_0x: as mmrotate 0.x writes it.
        more: further arguments of the head.
    """
    return _text(
        f"""
    neck=dict(
        type='{"" if is_0x else "mmdet."}FPN',
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,
        start_level=1,
        add_extra_convs='on_output',
        num_outs=5,
        relu_before_extra_convs=True),
    bbox_head=dict(
        type='RotatedFCOSHead',
        num_classes=15,
        strides=[8, 16, 32, 64, 128],
        norm_on_bbox=True,
        centerness_on_reg=True,
        scale_angle=True,{more}
        bbox_coder=dict(type='DistanceAnglePointCoder', angle_version='le90')),""",
        is_0x=is_0x,
    )


def _text(parts: str, *, is_0x: bool) -> str:
    backbone = _BACKBONE.format(scope="" if is_0x else "mmdet.")
    test = _TEST.format(nms="iou_thr" if is_0x else "iou_threshold")
    pixels = "" if is_0x else _PIXELS_1X
    model = f"model = dict(\n    type='Detector',{pixels}{backbone}{parts}{test})\n"
    return (_PIXELS_0X if is_0x else "") + model + "custom_hooks = [print]\n"
