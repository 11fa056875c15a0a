"""Published detectors from their checkpoints alone: what is read of them, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from tcm_d2 import Detector
from tcm_d2.checkpoint.load import load_weights
from tcm_d2.checkpoint.published import published_config
from tcm_d2.cli.main import run_command
from tcm_d2.modeling.detector import RotatedOneStageDetector
from tcm_d2.modeling.heads.s2anet import RotatingConv
from tcm_d2.weight_files.python_values import read_python_values
from tcm_d2.weight_files.reading import read_weight_file
from tests.checkpoint.published_text import anchor_text, fcos_text, r3det_text, s2anet_text
from tests.weight_files.foreign import save_as_mmengine

WIDTH = 8


def resnet_state() -> dict[str, Tensor]:
    """Return a narrow ResNet-50 in torchvision's names."""
    state: dict[str, Tensor] = {}

    def add(conv: str, norm: str, out_channels: int, in_channels: int, side: int) -> None:
        state[f"backbone.{conv}.weight"] = torch.randn(out_channels, in_channels, side, side) / 8
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"backbone.{norm}.{name}"] = torch.ones(out_channels) / 2
        state[f"backbone.{norm}.num_batches_tracked"] = torch.tensor(3)

    add("conv1", "bn1", WIDTH, 3, 7)
    before = WIDTH
    for stage, num_blocks in enumerate((3, 4, 6, 3)):
        middle = WIDTH * 2**stage
        for block in range(num_blocks):
            at = f"layer{stage + 1}.{block}"
            add(f"{at}.conv1", f"{at}.bn1", middle, before, 1)
            add(f"{at}.conv2", f"{at}.bn2", middle, middle, 3)
            add(f"{at}.conv3", f"{at}.bn3", 4 * middle, middle, 1)
            if block == 0:
                add(f"{at}.downsample.0", f"{at}.downsample.1", 4 * middle, before, 1)
            before = 4 * middle
    return state


def detector_state(kind: str, *, num_classes: int = 15) -> dict[str, Tensor]:
    """Return a narrow detector without towers' norms, in mmrotate's names."""
    torch.manual_seed(0)
    state = resnet_state()

    def add(name: str, out_channels: int, in_channels: int, side: int) -> None:
        state[f"{name}.weight"] = torch.randn(out_channels, in_channels, side, side) / 8
        state[f"{name}.bias"] = torch.zeros(out_channels)

    for index, channels in enumerate((64, 128, 256)):
        add(f"neck.lateral_convs.{index}.conv", 32, channels, 1)
    for index in range(5):
        in_channels = 256 if index == 3 and kind != "fcos" else 32
        add(f"neck.fpn_convs.{index}.conv", 32, in_channels, 3)
    if kind.startswith("s2anet"):
        return {**state, **s2anet_state(is_0x="0x" in kind)}
    if kind.startswith("r3det"):
        return {**state, **r3det_state(is_0x="0x" in kind)}
    for tower in ("cls_convs", "reg_convs"):
        add(f"bbox_head.{tower}.0.conv", 32, 32, 3)
        if kind == "fcos":
            del state[f"bbox_head.{tower}.0.conv.bias"]
            state[f"bbox_head.{tower}.0.gn.weight"] = torch.ones(32)
            state[f"bbox_head.{tower}.0.gn.bias"] = torch.zeros(32)
    if kind == "fcos":
        for name, channels in (("cls", num_classes), ("reg", 4), ("centerness", 1), ("angle", 1)):
            add(f"bbox_head.conv_{name}", channels, 32, 3)
        scales = {f"bbox_head.scales.{level}.scale": torch.tensor(1.0) for level in range(5)}
        return {**state, **scales, "bbox_head.scale_angle.scale": torch.tensor(1.0)}
    num_anchors = 1 if kind == "retinanet_of_one_anchor" else 9
    add("bbox_head.retina_cls", num_anchors * num_classes, 32, 3)
    add("bbox_head.retina_reg", num_anchors * 5, 32, 3)
    return state


def s2anet_state(*, is_0x: bool) -> dict[str, Tensor]:
    """Return a narrow S2A-Net head in the names of mmrotate 0.x or 1.x."""
    first, second, align = ("bbox_head_init", "bbox_head_refine.0", "feat_refine_module")
    align = f"{second}.{align}"
    if is_0x:
        first, second, align = "fam_head", "odm_head", "align_conv"
    state = {
        f"{align}.deform_conv.weight": torch.randn(32, 32, 3, 3),
        f"{second}.or_conv.weight": torch.randn(4, 32, 1, 3, 3),
        f"{second}.or_conv.bias": torch.zeros(32),
        f"{second}.or_conv.indices": RotatingConv(32, 32).indices,
    }
    for stage in (first, second):
        sizes = {"retina_cls": 15, "retina_reg": 5, "cls_convs.0.conv": 32, "reg_convs.0.conv": 32}
        for name, size in sizes.items():
            in_channels = 4 if stage == second and name.startswith("cls_convs") else 32
            state[f"{stage}.{name}.weight"] = torch.randn(size, in_channels, 3, 3)
            state[f"{stage}.{name}.bias"] = torch.zeros(size)
    return state


def r3det_state(*, is_0x: bool) -> dict[str, Tensor]:
    """Return a narrow R3Det head in the names of mmrotate 0.x or 1.x."""
    first, second, module = ("bbox_head_init", "bbox_head_refine.0", "feat_refine_module")
    module = f"{second}.{module}"
    if is_0x:
        first, second, module = "bbox_head", "refine_head.0", "feat_refine_module.0"
    state = {}
    for stage, num_anchors in ((first, 9), (second, 1)):
        sizes = {"retina_cls": 15 * num_anchors, "retina_reg": 5 * num_anchors}
        for name, size in {**sizes, "cls_convs.0.conv": 32, "reg_convs.0.conv": 32}.items():
            state[f"{stage}.{name}.weight"] = torch.randn(size, 32, 3, 3)
            state[f"{stage}.{name}.bias"] = torch.zeros(size)
    for name, kernel in (("conv_1_5", (1, 5)), ("conv_5_1", (5, 1)), ("conv_1_1", (1, 1))):
        state[f"{module}.{name}.weight"] = torch.randn(32, 32, *kernel)
        state[f"{module}.{name}.bias"] = torch.zeros(32)
    return state


def config_of(tmp_path: Path, kind: str, text: str | None, **options: Any) -> Any:
    path = tmp_path / "w.pth"
    state = detector_state(kind, **options.pop("state", {}))
    save_as_mmengine(state, path, config_text=text, **{"classes": (), **options})
    return published_config(read_weight_file(path), "w.pth")


@pytest.mark.parametrize("is_0x", [False, True])
@pytest.mark.parametrize(
    ("version", "side_of_1x", "coder"),
    [
        ("le90", "long", (-90.0, None, True, True, 1.0)),
        ("le135", "long", (-45.0, None, True, False, math.pi)),
        ("oc", "vertical", (-90.0, -90.0, False, False, 1.0)),
    ],
)
def test_angle_versions_become_settings(
    tmp_path: Path, version: Any, side_of_1x: str, coder: tuple, is_0x: bool
) -> None:
    text = anchor_text("RotatedRetinaHead", version, is_0x=is_0x)
    cfg = config_of(tmp_path, "retinanet", text)
    delta, head = cfg.MODEL.DELTA_CODER, cfg.MODEL.ROTATED_HEAD
    found = [delta.MIN_ANGLE_DEG, delta.QUARTER_FROM_DEG, delta.ALONG_AXES]
    expected = list(coder)
    if is_0x and version == "oc":
        expected[1] = 0.001  # angles in (0, 90]
    assert [*found, delta.SWAP_SIDES, delta.TURN_UNIT_RAD] == expected
    # All anchors of 0.x lie at 0 degrees.
    assert head.ANCHOR_WIDTH_SIDE == ("horizontal" if is_0x else side_of_1x)
    assert (head.NAME, head.NUM_CLASSES, head.NORM) == ("RotatedRetinaNetHead", 15, "")
    assert (head.NUM_CONVS, head.CHANNELS) == (1, 32)
    assert head.ANCHOR_RATIOS == [1.0, 0.5, 2.0] and head.ANCHOR_SCALES_PER_OCTAVE == 3
    assert head.STRIDES_PX == [8, 16, 32, 64, 128]
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53] and cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 2 and cfg.MODEL.RESNETS.DEPTH == 50


def test_atss_of_the_zoo_is_a_retinanet_with_one_anchor(tmp_path: Path) -> None:
    """mmrotate's RotatedATSSHead differs from its RetinaNet in training only."""
    text = anchor_text("RotatedATSSHead", "le90", is_0x=True)
    head = config_of(tmp_path, "retinanet_of_one_anchor", text).MODEL.ROTATED_HEAD
    assert (head.NAME, head.NUM_CLASSES) == ("RotatedRetinaNetHead", 15)
    assert head.ANCHOR_RATIOS == [1.0]


@pytest.mark.parametrize("is_0x", [False, True])
@pytest.mark.parametrize(
    ("kind", "text", "head"),
    [
        ("s2anet", s2anet_text, "RotatedS2ANetHead"),
        ("r3det", r3det_text, "RotatedR3DetHead"),
    ],
)
def test_names_of_both_versions_of_two_stages(
    tmp_path: Path, kind: str, text: Callable[..., str], head: str, is_0x: bool
) -> None:
    cfg = config_of(tmp_path, f"{kind}_of_0x" if is_0x else kind, text(is_0x=is_0x))
    assert cfg.MODEL.ROTATED_HEAD.NAME == head
    model = RotatedOneStageDetector(cfg)
    tensors = read_weight_file(tmp_path / "w.pth").tensors
    report = load_weights(model, tensors, source="w.pth", require_all_parameters=True)
    assert report.unexpected == [] and report.mismatched == []


def test_two_stages_of_refinement_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refine_heads: expected one stage, got 2"):
        config_of(tmp_path, "r3det_of_0x", r3det_text(is_0x=True, num_stages=2))


@pytest.mark.parametrize("is_0x", [False, True])
def test_fcos_with_other_classes(tmp_path: Path, is_0x: bool) -> None:
    options = {"state": {"num_classes": 2}, "classes": ("ship", "plane")}
    cfg = config_of(tmp_path, "fcos", fcos_text(is_0x=is_0x), **options)
    head = cfg.MODEL.ROTATED_HEAD
    assert (head.NAME, head.NUM_CLASSES, head.NORM) == ("RotatedFCOSHead", 2, "GN")
    assert cfg.DATASETS.CLASSES == ["ship", "plane"]
    fpn = cfg.MODEL.ROTATED_FPN
    assert (fpn.EXTRA_LEVELS_FROM, fpn.RELU_BEFORE_EXTRA) == ("output", True)


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        (None, (), r"weights 'w\.pth': holds no configuration text.*--config-file"),
        ("model = dict(", (), "no Python text"),
        ("import os\nos.system('x')\n", (), "has no section 'model'"),
        (fcos_text(more="separate_angle=True,"), (), "RotatedFCOSHead.separate_angle: expected F"),
        (fcos_text(), ("ship",), "1 class names for 15 outputs"),
        (fcos_text().replace("pytorch", "caffe"), (), r"mmdet\.ResNet\.style: expected 'pytorch'"),
        (fcos_text().replace("nms=dict(iou_threshold=0.1)", "nms=3"), (), "is not understood"),
        (fcos_text().replace("on_output", "on_lateral"), (), "add_extra_convs: expected one of"),
    ],
)
def test_what_is_not_known_is_said(
    tmp_path: Path, text: str | None, classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(tmp_path, "fcos", text, classes=classes)


def test_texts_are_data_only() -> None:
    text = (
        "import os\nwidth = 3\nsteps = [dict(type='a', n=-width), {'b': (1, None)}]\n"
        "bad = os.getcwd()\nmixed = dict(bad=os.getcwd(), **{'good': True}, f=lambda: 1)\n"
        "width = open('x')\n"
    )
    assert read_python_values(text) == {
        "steps": [{"type": "a", "n": -3}, {"b": (1, None)}],
        "mixed": {"good": True},
    }


@pytest.fixture
def published(tmp_path: Path) -> Path:
    path = tmp_path / "rotated_fcos.pth"
    state = detector_state("fcos", num_classes=2)
    save_as_mmengine(state, path, config_text=fcos_text(is_0x=True), classes=("ship", "plane"))
    return path


def run_tool(name: str, *arguments: object) -> int | None:
    return run_command(name, [str(argument) for argument in arguments])


def test_detector_and_converted_file_agree(published: Path, tmp_path: Path) -> None:
    """Both work from files alone; tools/convert_checkpoint.py writes a configuration, too."""
    image = torch.randint(0, 255, (64, 96, 3), dtype=torch.uint8).numpy()
    detector = Detector.from_pretrained(published, device="cpu", score_threshold=0.05)
    assert detector.classes == ("ship", "plane")
    output = tmp_path / "ours" / "fcos.pth"
    output.parent.mkdir()
    arguments = ("--weights", published, "--output", output)
    assert run_tool("convert", *arguments) == 0
    assert yaml.safe_load(output.with_suffix(".yaml").read_text())["dataloader"]["classes"]
    output.rename(output.with_name("x.pth"))
    assert run_tool("convert", *arguments) == 1  # the configuration would be replaced
    output.with_name("x.pth").rename(output)
    again = Detector.from_pretrained(output, device="cpu", score_threshold=0.05)
    found, expected = again(image), detector(image)
    assert len(expected.boxes) > 0 and again.classes == detector.classes
    assert (found.boxes == expected.boxes).all() and (found.scores == expected.scores).all()


def test_other_classes_load_all_but_the_class_predictor(published: Path) -> None:
    """The start of a fine-tuning: the report says what stays as it was built."""
    file = read_weight_file(published)
    cfg = published_config(file, published)
    cfg.MODEL.ROTATED_HEAD.NUM_CLASSES, cfg.MODEL.DEVICE = 7, "cpu"
    model = RotatedOneStageDetector(cfg)
    report = load_weights(model, file.tensors, source="w.pth")
    names = [name for name, _, _ in report.mismatched]
    assert names == ["head.class_predictor.weight", "head.class_predictor.bias"]
    assert report.missing == [] and report.unexpected == []
