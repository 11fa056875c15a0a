"""Detectors, operators and the predictor where all tensors say that they are on a GPU."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from benchmarks._detectors import give_candidates, make_detector, make_inputs
from tcm_d2 import Detector, ops
from tests.ops.oracle import box_pairs
from tests.pretended_cuda import PretendedCUDA, pretend_cuda, pretended_cuda

DETECTORS = ("tcm_fcos", "tcm_atss", "tcm_retinanet", "tcm_fcos_fast", "fcos_no_tcm")


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_keep_to_one_device(name: str) -> None:
    model = make_detector(f"embedded_{name}", torch.device("cpu"))
    inputs = make_inputs(2, 96, num_objects=6)
    give_candidates(model, inputs, 0.02)
    there = pretend_cuda(copy.deepcopy(model))
    state = copy.deepcopy(model.state_dict())
    expected = model.train()(inputs)
    with pretended_cuda():
        losses = there.train()(inputs)
    for loss, value in expected.items():
        assert losses[loss].device.type == "cuda"
        torch.testing.assert_close(losses[loss].inner, value.detach(), rtol=1e-4, atol=1e-6)
    model.load_state_dict(state)
    with torch.no_grad():
        found = model.eval()(inputs)
        there = pretend_cuda(copy.deepcopy(model))
        with pretended_cuda():
            found_there = there.eval()(inputs)
    for ours, theirs in zip(found, found_there, strict=True):
        assert len(ours["instances"]) > 5
        boxes = theirs["instances"].pred_boxes.tensor
        assert isinstance(boxes, PretendedCUDA)
        assert abs(len(boxes) - len(ours["instances"])) <= 2


def test_operators_keep_to_one_device() -> None:
    boxes1, boxes2 = box_pairs("random", 40, torch.float32)
    scores = torch.rand(40)
    with pretended_cuda():
        there1, there2, scores_there = (PretendedCUDA(t) for t in (boxes1, boxes2, scores))
        keep = ops.nms_rotated(there1, scores_there, 0.3)
        overlaps = ops.box_iou_rotated(there1, there2)
    assert keep.inner.tolist() == ops.nms_rotated(boxes1, scores, 0.3).tolist()
    assert torch.equal(overlaps.inner, ops.box_iou_rotated(boxes1, boxes2))


def test_pictures_are_the_cpus() -> None:
    """`Detector` goes the whole way, from an array to NumPy boxes."""
    picture = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    detector = Detector.from_pretrained("tcm_atss_embedded", device="cpu")
    expected = detector(picture, score_threshold=0.05)
    pretend_cuda(detector.model)
    with pretended_cuda():
        result = detector(picture, score_threshold=0.05)
    assert abs(len(result.scores) - len(expected.scores)) <= 1
    assert result.boxes.shape[1] == 5


def test_a_tensor_left_behind_is_found() -> None:
    with pretended_cuda(), pytest.raises(RuntimeError, match=r"cuda:0 meet tensors on cpu .*\(3,"):
        torch.ones(3, device="cuda") + torch.ones(3)
