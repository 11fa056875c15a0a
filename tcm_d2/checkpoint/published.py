"""A published one-stage detector of mmrotate from its checkpoint alone, as a configuration of ours.

Widths, depth and number of classes come from the tensors; how boxes are coded, the pyramid and the
thresholds from the configuration text that the file holds, which is read as data. Angle versions
(oc, le90, le135) are known here only: anchors and coders get explicit settings.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from tcm_d2.checkpoint.convert import convert_mmrotate_state_dict, count_neck_inputs, find_own_head
from tcm_d2.config.defaults import get_tcm_config
from tcm_d2.config.registries import ROTATED_HEAD_REGISTRY
from tcm_d2.config.run import Run, run_from_cfg
from tcm_d2.messages import some_names
from tcm_d2.modeling.heads.anchor_based import NUM_DELTAS
from tcm_d2.weight_files.description import find_naming
from tcm_d2.weight_files.python_values import read_python_values
from tcm_d2.weight_files.reading import WeightFile

STAGES = ("res2", "res3", "res4", "res5")
# Blocks of each stage -> depth, with three convolutions a block and with two.
_DEPTHS: dict[tuple[int, ...], int] = {
    (3, 4, 6, 3, 3): 50,
    (3, 4, 23, 3, 3): 101,
    (3, 8, 36, 3, 3): 152,
    (2, 2, 2, 2, 2): 18,
    (3, 4, 6, 3, 2): 34,
}
# Of a head with two stages: in 1.x, and S2A-Net's and R3Det's in 0.x.
_STAGE_SECTIONS = (
    ("bbox_head_init", "bbox_head_refine"),
    ("fam_head", "odm_head"),
    ("bbox_head", "refine_heads"),
)
# oc of 0.x has angles in (0, 90] and not in [0, 90): an upright box's width is its height there.
_JUST_ABOVE_0_DEG = 0.001
Section = Mapping[str, Any]


def is_published(file: WeightFile) -> bool:
    """Return whether a file is a detector of mmrotate without CLIP."""
    return find_naming(file.tensors) == "mmrotate"


def published_run(file: WeightFile, path: str | os.PathLike[str]) -> Run:
    """Return the run that a published detector's file describes; see `published_config`."""
    return run_from_cfg(published_config(file, path), source=str(path))


def published_config(file: WeightFile, path: str | os.PathLike[str]) -> CfgNode:
    """Return the configuration of the detector in a file.

    Raises:
        ValueError: something is not known, or has no counterpart here; says what.
    """
    converted = convert_mmrotate_state_dict(file.tensors)
    try:
        if converted.notes:
            raise ValueError(converted.notes[0])
        if converted.unknown:
            raise ValueError(f"no place for {some_names(converted.unknown)}")
        if not file.config_text:
            raise ValueError(
                "holds no configuration text, and how its boxes are coded is not known without; "
                "give a configuration of ours with config_file (--config-file)"
            )
        cfg = get_tcm_config()
        settings = read_python_values(file.config_text)
        model = _section(settings, "model")
        cfg.MODEL.TCM.ENABLED = False
        _set_backbone(cfg, converted.state_dict, _section(model, "backbone"))
        _set_neck(cfg, file.tensors, converted.state_dict, _section(model, "neck"))
        _set_head(cfg, converted.state_dict, model)
        _set_pixels(cfg, settings, model)
        _set_classes(cfg, file.class_names)
    except ValueError as error:
        raise ValueError(f"weights '{path}': {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError) as error:  # any text may be in a file
        raise ValueError(
            f"weights '{path}': the configuration in it is not understood ({error!r})"
        ) from None
    return cfg


def _section(settings: Section, name: str) -> Section:
    section = settings.get(name)
    if not isinstance(section, Mapping):
        raise ValueError(f"the configuration in it has no section '{name}'")
    return section


def _expect(section: Section, key: str, *expected: Any, default: Any) -> None:
    """Refuse a setting that changes what the tensors mean.

    Raises:
        ValueError: the value is none of those expected.
    """
    got = section.get(key, default)
    if got not in expected:
        known = " or ".join(map(repr, expected))
        raise ValueError(f"{section.get('type', '?')}.{key}: expected {known}, got {got!r}")


def _kind(section: Section) -> str:
    """Return a part's type without the scope that mmengine puts before it."""
    return str(section.get("type", "")).rpartition(".")[2]


def _set_backbone(cfg: CfgNode, state: Mapping[str, Tensor], backbone: Section) -> None:
    if _kind(backbone) not in ("ResNet", "ResNeXt"):
        raise ValueError(f"backbone: expected ResNet or ResNeXt, got {_kind(backbone)!r}")
    _expect(backbone, "style", "pytorch", default="pytorch")
    convs = {n.removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone.")}
    blocks = [len({n.split(".")[1] for n in convs if n.startswith(stage)}) for stage in STAGES]
    num_convs = 3 if "res2.0.conv3.weight" in convs else 2
    depth = _DEPTHS.get((*blocks, num_convs))
    if depth is None:
        raise ValueError(f"backbone: no ResNet has {blocks} blocks with {num_convs} convolutions")
    second = convs["res2.0.conv2.weight"]
    num_groups = len(second) // second.shape[1]
    resnets = cfg.MODEL.RESNETS
    cfg.MODEL.BACKBONE.NAME = "build_torchvision_resnet_backbone"
    resnets.DEPTH = depth
    resnets.STEM_OUT_CHANNELS = len(convs["stem.conv1.weight"])
    resnets.RES2_OUT_CHANNELS = len(convs[f"res2.0.conv{num_convs}.weight"])
    resnets.NUM_GROUPS = num_groups
    resnets.WIDTH_PER_GROUP = len(second) // num_groups
    resnets.NORM = "FrozenBN"
    cfg.MODEL.BACKBONE.FREEZE_AT = int(backbone.get("frozen_stages", -1)) + 1


def _set_neck(
    cfg: CfgNode, theirs: Mapping[str, Tensor], state: Mapping[str, Tensor], neck: Section
) -> None:
    if _kind(neck) != "FPN":
        raise ValueError(f"neck: expected FPN, got {_kind(neck)!r}")
    sources = {"on_input": "input", True: "input", "on_output": "output"}
    source = neck.get("add_extra_convs", False)
    if source not in sources:
        raise ValueError(f"neck.add_extra_convs: expected one of {list(sources)}, got {source!r}")
    num_inputs = count_neck_inputs(theirs)
    names = {name.split(".")[2] for name in state if name.startswith("neck.extra_convs.")}
    fpn = cfg.MODEL.ROTATED_FPN
    fpn.IN_FEATURES = list(STAGES[-num_inputs:])
    fpn.OUT_CHANNELS = len(state["neck.output_convs.0.weight"])
    fpn.EXTRA_LEVELS_FROM = sources[source]
    fpn.RELU_BEFORE_EXTRA = bool(neck.get("relu_before_extra_convs", False))
    fpn.NUM_EXTRA_LEVELS = len(names)
    first_px = 2 ** (6 - num_inputs)
    strides_px = [first_px * 2**level for level in range(num_inputs + len(names))]
    cfg.MODEL.ROTATED_HEAD.STRIDES_PX = strides_px


def _set_head(cfg: CfgNode, state: Mapping[str, Tensor], model: Section) -> None:
    section, head = _head_section(model), cfg.MODEL.ROTATED_HEAD
    names = find_own_head(state)
    head.NAME = next(n for n, h in ROTATED_HEAD_REGISTRY if getattr(h, "foreign_names", 0) is names)
    towers = [name for name in state if name.startswith("head.class_tower.")]
    convs = [name for name in towers if state[name].dim() == 4]
    head.NUM_CONVS = len(convs)
    head.CHANNELS = len(state[convs[0]]) if convs else head.CHANNELS
    head.NORM = "GN" if len(towers) == 3 * len(convs) else ""
    num_anchors = 1
    if "anchor_generator" in section:
        num_anchors = len(state["head.delta_predictor.bias"]) // NUM_DELTAS
        _set_anchors(cfg, section["anchor_generator"], _section(section, "bbox_coder"))
    else:
        _check_points(state, section)
    head.NUM_CLASSES = len(state["head.class_predictor.bias"]) // num_anchors
    test = _section(model, "test_cfg")
    nms = test.get("nms", {})
    head.TOPK_CANDIDATES = test.get("nms_pre", head.TOPK_CANDIDATES)
    head.SCORE_THRESH = float(test.get("score_thr", head.SCORE_THRESH))
    head.NMS_THRESH = float(nms.get("iou_thr", nms.get("iou_threshold", head.NMS_THRESH)))
    head.MAX_DETECTIONS = test.get("max_per_img", head.MAX_DETECTIONS)


def _head_section(model: Section) -> Section:
    """Return the head's section; of two stages the first one's, whose coder is the second's too."""
    for first, second in _STAGE_SECTIONS:
        if first in model and second in model:
            section, refine = _section(model, first), model[second]
            stages = list(refine) if isinstance(refine, (list, tuple)) else [refine]
            if len(stages) != 1 or not isinstance(stages[0], Mapping):
                raise ValueError(f"{second}: expected one stage, got {len(stages)}")
            for key in ("angle_version", "angle_range", "norm_factor", "edge_swap", "proj_xy"):
                values = [_section(stage, "bbox_coder").get(key) for stage in (section, stages[0])]
                if values[0] != values[1]:
                    raise ValueError(f"bbox_coder.{key}: expected one of all stages, got {values}")
            return section
    return _section(model, "bbox_head")


def _check_points(state: Mapping[str, Tensor], section: Section) -> None:
    """Refuse what mmrotate's FCOS head can be besides ours."""
    num_angles = len(state["head.angle_predictor.bias"])
    if num_angles != 1:
        raise ValueError(f"the angle is coded by {num_angles} numbers (CSL): expected 1")
    _expect(section, "separate_angle", False, default=False)
    _expect(section, "use_hbbox_loss", False, default=False)
    _expect(section, "norm_on_bbox", True, default=False)
    _expect(section, "centerness_on_reg", True, default=False)
    _expect(section, "scale_angle", True, default=True)


def _set_anchors(cfg: CfgNode, anchors: Section, coder: Section) -> None:
    """Set what anchors and deltas of an angle version are, of mmrotate 0.x and 1.x.

    The anchors of 0.x lie at 0 degrees whatever the version; those of 1.x are in its form.
    """
    head, delta = cfg.MODEL.ROTATED_HEAD, cfg.MODEL.DELTA_CODER
    kinds = {"RotatedAnchorGenerator": 0, "FakeRotatedAnchorGenerator": 1}
    if _kind(anchors) not in kinds:
        raise ValueError(f"anchor_generator: expected one of {list(kinds)}, got {_kind(anchors)!r}")
    is_1x = bool(kinds[_kind(anchors)])
    if list(anchors.get("strides", ())) != head.STRIDES_PX:
        raise ValueError(
            f"anchor_generator.strides: expected {head.STRIDES_PX}, those of the pyramid, got "
            f"{anchors.get('strides')!r}"
        )
    _expect(anchors, "center_offset", 0.0, default=0.0)
    scales = list(anchors.get("scales", ()))
    if "octave_base_scale" not in anchors and len(scales) != 1:
        raise ValueError("anchor_generator: expected octave_base_scale, or one of scales")
    head.ANCHOR_SIDE_STRIDES = float(anchors.get("octave_base_scale", *scales))
    head.ANCHOR_SCALES_PER_OCTAVE = int(anchors.get("scales_per_octave", 1))
    head.ANCHOR_RATIOS = [float(ratio) for ratio in anchors.get("ratios", ())]

    version = coder.get("angle_version", coder.get("angle_range", "oc"))
    if version not in ("oc", "le90", "le135"):
        raise ValueError(f"bbox_coder: unknown angle version {version!r}")
    is_oc, swaps = version == "oc", bool(coder.get("edge_swap", False))
    if is_oc and swaps:
        raise ValueError("bbox_coder: edge_swap with angle version 'oc' has no counterpart here")
    _expect(coder, "add_ctr_clamp", False, default=False)
    for key, value in (("target_means", 0.0), ("target_stds", 1.0)):
        if any(number != value for number in coder.get(key, ())):
            raise ValueError(f"bbox_coder.{key}: expected {value} each, got {coder[key]!r}")
    of_1x = "vertical" if is_oc else "long"
    head.ANCHOR_WIDTH_SIDE = of_1x if is_1x else "horizontal"
    delta.MIN_ANGLE_DEG = -45.0 if version == "le135" else -90.0
    quarter = (-90.0 if is_1x else _JUST_ABOVE_0_DEG) if is_oc else None
    delta.QUARTER_FROM_DEG = quarter
    delta.ALONG_AXES, delta.SWAP_SIDES = bool(coder.get("proj_xy", False)), swaps
    factor = coder.get("norm_factor")
    delta.TURN_UNIT_RAD = float(factor) * math.pi if factor else 1.0


def _set_pixels(cfg: CfgNode, settings: Section, model: Section) -> None:
    """Set the normalisation: of the model in 1.x, of the pipelines in 0.x."""
    own = model.get("data_preprocessor") or settings.get("img_norm_cfg")
    section = own if isinstance(own, Mapping) else next(_normalize_steps(settings), None)
    if section is None or "mean" not in section or "std" not in section:
        raise ValueError("the configuration in it has no mean and std of pixels")
    cfg.MODEL.PIXEL_MEAN = [float(value) for value in section["mean"]]
    cfg.MODEL.PIXEL_STD = [float(value) for value in section["std"]]
    is_rgb = section.get("bgr_to_rgb", section.get("to_rgb", False))
    cfg.INPUT.FORMAT = "RGB" if is_rgb else "BGR"


def _normalize_steps(settings: Section) -> Iterator[Section]:
    for pipeline in settings.values():
        for step in pipeline if isinstance(pipeline, (list, tuple)) else ():
            if isinstance(step, Mapping) and step.get("type") == "Normalize":
                yield step


def _set_classes(cfg: CfgNode, class_names: tuple[str, ...]) -> None:
    num_classes = cfg.MODEL.ROTATED_HEAD.NUM_CLASSES
    if class_names and len(class_names) != num_classes:
        raise ValueError(f"{len(class_names)} class names for {num_classes} outputs of the head")
    cfg.DATASETS.CLASSES = list(class_names)
