"""mmrotate's detectors without CLIP, complete: weights, maps, raw outputs, predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tcm_d2 import Detector
from tcm_d2.checkpoint.load import match_weights
from tcm_d2.cpu import restore
from tcm_d2.ops import box_iou_rotated
from tcm_d2.weight_files.reading import read_weight_file
from tests.checkpoint.published_text import anchor_text, fcos_text, r3det_text, s2anet_text
from tests.parity.golden import NEAR_CUT, Detections, Golden, num_missing, relative_error
from tests.weight_files.foreign import save_as_mmengine

LEVELS = range(5)
CLASSES = tuple(f"class of theirs {i}" for i in range(15))
NMS_THRESHOLD, TOPK_CANDIDATES = 0.1, 2000
MATCH = {"corner_px": 0.05, "score": 1e-4}
# mmcv's float32 IoU may be this far from the true one, and it drops boxes at the threshold itself.
IOU_ERROR = 1e-4

TEXTS = {
    "fcos_le90": fcos_text(),
    "atss_le90": anchor_text("RotatedATSSHead", "le90"),
    "retinanet_le90": anchor_text("RotatedRetinaHead", "le90", start_level=0),
    "retinanet_oc": anchor_text("RotatedRetinaHead", "oc", start_level=0),
    "retinanet_le135": anchor_text("RotatedRetinaHead", "le135", start_level=0),
    "s2anet_le135": s2anet_text(),
    "r3det_oc": r3det_text(),
}


@pytest.fixture(scope="module", params=TEXTS)
def case(
    request: pytest.FixtureRequest, golden_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Golden, nn.Module]:
    """Name, arrays, and the detector from a checkpoint alone, as mmengine would write it."""
    golden = Golden(golden_dir / f"k_zoo_{request.param}.npz")
    path = tmp_path_factory.mktemp("zoo") / f"{request.param}.pth"
    save_as_mmengine(golden.below("sd"), path, config_text=TEXTS[request.param], classes=CLASSES)
    detector = Detector.from_pretrained(path, device="cpu")
    assert detector.classes == CLASSES
    restore(detector.model)
    file = read_weight_file(path)
    _, report = match_weights(detector.model.state_dict(), file.tensors, source=str(path))
    assert report.is_complete and report.notes == []
    assert len(report.dead) == 53  # counters of frozen norms
    assert len(report.loaded) == len(golden.below("sd")) - 53
    return request.param, golden, detector.model


def batch_of(golden: Golden) -> list[dict[str, Tensor]]:
    return [{"image": bgr.flip(-1).permute(2, 0, 1)} for bgr in golden["images_bgr_u8"]]


@torch.no_grad()
def test_maps_and_raw_outputs(case: tuple[str, Golden, Any]) -> None:
    kind, golden, model = case
    features = model.backbone(model.preprocess_images(batch_of(golden)).tensor)
    pyramid = model.neck(features)
    output = model.head(pyramid)
    output = getattr(output, "first", output)  # of two stages the first was kept
    # FCOS gives distances in pixels there, in strides here.
    regressed = output[1][1] * (16 if kind == "fcos_le90" else 1)
    pairs = {
        "eval_c5": features["res5"],
        **{f"eval_fpn_lvl{level}": pyramid[level] for level in LEVELS},
        "eval_cls_lvl1": output.class_logits[1],
        "eval_reg_lvl1": regressed,
        **{f"eval_extra{i}_lvl1": maps[1] for i, maps in enumerate(output[2:])},
    }
    assert len(pairs) == sum(name.startswith("eval_") for name in golden.names())
    for name, actual in pairs.items():
        assert relative_error(actual, golden[name]) < 1e-4, name


@torch.no_grad()
def test_predictions(case: tuple[str, Golden, Any]) -> None:
    """At most 1% differ, each at the threshold of NMS or last of its level's candidates."""
    _, golden, model = case
    batch = batch_of(golden)
    logits = model.dense_output(model.preprocess_images(batch).tensor, None)[0].class_logits
    for image, result in enumerate(model(batch)):
        instances = result["instances"]
        mine = instances.pred_boxes.tensor, instances.scores, instances.pred_classes
        theirs = (
            golden.boxes(f"pred{image}_boxes"),
            golden[f"pred{image}_scores"],
            golden[f"pred{image}_labels"].long(),
        )
        unmatched = [*without_match(mine, theirs), *without_match(theirs, mine)]
        assert len(unmatched) <= 0.01 * len(theirs[0])
        for detection in unmatched:
            is_last = (detection[1] - last_candidates(logits, image)).abs().min() < NEAR_CUT
            assert is_last or is_at_nms_threshold(detection, mine), detection


def without_match(wanted: Detections, available: Detections) -> list[Detections]:
    if not num_missing(wanted, available, **MATCH):
        return []
    boxes, scores, labels = (part.split(1) for part in wanted)
    singles = zip(boxes, scores, labels, strict=True)
    return [single for single in singles if num_missing(single, available, **MATCH)]


def last_candidates(logits: list[Tensor], image: int) -> Tensor:
    """Return the class score at which each level's candidates are cut off."""
    scores = [level[image].flatten().sigmoid() for level in logits]
    return torch.stack([s.topk(min(TOPK_CANDIDATES, len(s))).values[-1] for s in scores])


def is_at_nms_threshold(detection: Detections, kept: Detections) -> bool:
    """Whether a better box of the class overlaps by the threshold, or by rounding more or less."""
    box, score, label = detection
    better = kept[0][(kept[2] == label) & (kept[1] > score)]
    iou = box_iou_rotated(box, better)
    return bool(((iou - NMS_THRESHOLD).abs() < IOU_ERROR).any())
