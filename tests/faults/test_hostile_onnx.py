"""ONNX files of strangers: their properties are checked, and they read no other file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tcm_d2.export.running import METADATA_KEY, ExportedDetector

onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")

FACTS: dict[str, Any] = {
    "outputs": ["boxes", "class_scores"],
    "class_names": ["ship"],
    "batch_size": None,
    "size_hw": None,
    "size_divisor_px": 32,
    "pixel_mean": [0.0, 0.0, 0.0],
    "strides_px": [32],
    "anchors_per_cell": None,
    "clamps_centers": False,
    "score_threshold": 0.05,
    "topk_candidates": 10,
    "nms_threshold": 0.1,
    "max_detections": 10,
}


def write_file(path: Path, text: str, *, outside: str = "") -> Path:
    """Write a network of one cell and one box, and the text as its property."""
    box = onnx.numpy_helper.from_array(np.array([[[16, 16, 8, 4, 0]]], np.float32), "box")
    score = onnx.numpy_helper.from_array(np.array([[[0.9]]], np.float32), "score")
    if outside:
        box.ClearField("raw_data")
        box.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", outside), ("length", "20")):
            box.external_data.add(key=key, value=value)
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["box"], ["boxes"]),
            onnx.helper.make_node("Identity", ["score"], ["class_scores"]),
        ],
        "detector",
        [make("images", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [make("boxes", 1, [1, 1, 5]), make("class_scores", 1, [1, 1, 1])],
        [box, score],
    )
    opset = onnx.helper.make_operatorsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    path.write_bytes(model.SerializeToString())
    return path


def test_an_ordinary_file_runs(tmp_path: Path) -> None:
    detector = ExportedDetector.from_onnx(write_file(tmp_path / "m.onnx", json.dumps(FACTS)))
    (found,) = detector([np.zeros((32, 32, 3), np.uint8)])
    np.testing.assert_allclose(found.boxes, [[16, 16, 8, 4, 0]])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, None) for name in FACTS if FACTS[name] is not None),
        ("size_hw", [10**9, 10**9]),
        ("size_hw", [32]),
        ("batch_size", -1),
        ("strides_px", [0]),
        ("strides_px", []),
        ("pixel_mean", [0.0, float("nan"), 0.0]),
        ("topk_candidates", 0.5),
        ("score_threshold", "0.1"),
        ("class_names", "ship"),
    ],
)
def test_a_fact_of_another_kind_is_named(tmp_path: Path, name: str, value: Any) -> None:
    path = write_file(tmp_path / "m.onnx", json.dumps({**FACTS, name: value}))
    with pytest.raises(ValueError, match=rf"m\.onnx', property tcm_d2: {name}: expected "):
        ExportedDetector.from_onnx(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[]", "expected an object, got list"),
        ("{}", "outputs: expected a list of names, got nothing"),
    ],
)
def test_a_property_that_is_no_object(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportedDetector.from_onnx(write_file(tmp_path / "m.onnx", text))


def test_damaged_files_end_in_one_error(tmp_path: Path) -> None:
    content = bytearray(write_file(tmp_path / "m.onnx", json.dumps(FACTS)).read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 8):
            damaged[place] = rng.integers(0, 256)
        (tmp_path / "d.onnx").write_bytes(damaged[: rng.integers(1, len(content) + 1)])
        try:
            ExportedDetector.from_onnx(tmp_path / "d.onnx")
        except ValueError as error:
            assert "d.onnx" in str(error)


@pytest.mark.parametrize("is_beside", [True, False])
def test_no_other_file_is_read(tmp_path: Path, is_beside: bool) -> None:
    (tmp_path / "secret.bin").write_bytes(np.arange(5, dtype=np.float32).tobytes())
    (tmp_path / "model").mkdir()
    outside = "secret.bin" if is_beside else "../secret.bin"
    folder = tmp_path if is_beside else tmp_path / "model"
    path = write_file(folder / "m.onnx", json.dumps(FACTS), outside=outside)
    with pytest.raises(ValueError, match=r"m\.onnx': cannot be run"):
        ExportedDetector.from_onnx(path)
