"""Networks that onnxruntime and OpenVINO run inside `Detector`: same boxes, clear errors."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tcm_d2 import Detector
from tcm_d2.export.backends import check_backend
from tcm_d2.export.comparing import corner_distances
from tcm_d2.inference.bundled import DEFAULT_NAME
from tcm_d2.synthetic.config import SyntheticConfig
from tcm_d2.synthetic.render import render_image


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_backends_find_the_same_boxes(backend: str) -> None:
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    options = {"device": "cpu", "score_threshold": 0.1, "window_px": 256, "overlap_px": 64}
    ours = Detector.from_pretrained(DEFAULT_NAME, **options)
    theirs = Detector.from_pretrained(DEFAULT_NAME, backend=backend, **options)
    config = SyntheticConfig.easy(image_size_px=320)
    image = render_image(config, seed=5, split_index=1, image_index=0).image
    for scene in (image, image[:200, :230]):  # of several windows, and smaller than one
        expected, found = ours(scene), theirs(scene)
        assert len(expected.scores) > 3 and len(found.scores) == len(expected.scores)
        for box, score, name in zip(expected.boxes, expected.scores, expected.class_ids):
            alike = (found.class_ids == name) & (np.abs(found.scores - score) < 1e-3)
            boxes = found.boxes[alike]
            assert corner_distances(boxes, box[None].repeat(len(boxes), 0)).min(initial=9) < 0.1


@pytest.mark.parametrize("package", ["onnxruntime", "openvino", "onnx"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = "onnxruntime" if package == "onnx" else package
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs the package {package} .*pip install 'tcm_d2\["):
        check_backend(backend)


def test_unfit_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of torch, onnxruntime, openvino, got 'jit'"):
        Detector.from_pretrained(DEFAULT_NAME, backend="jit")
    with pytest.raises(ValueError, match="device: expected 'cpu' for 'onnxruntime', got 'cuda'"):
        Detector.from_pretrained(DEFAULT_NAME, backend="onnxruntime", device="cuda")
