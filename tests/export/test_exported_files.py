"""Exported files give the model's boxes, with numpy alone after them; what cannot be exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from torch import nn
from torchvision.ops import deform_conv2d

from tcm_d2.export import files
from tcm_d2.export.comparing import compare_outputs, corner_distances
from tcm_d2.export.dense_model import DenseModel
from tcm_d2.export.files import ExportError, export_metadata, save_onnx, save_program, trace
from tcm_d2.export.running import ExportedDetector
from tcm_d2.structures.detections import BoxDetections
from tests.checkpoint.detectors import small_detector

onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")

FAST = {"MODEL__TCM__PROMPT_GENERATOR": "meta", "MODEL__TCM__BIMODAL_MATCHING": True}
_TWO_STAGES = {
    "MODEL__META_ARCHITECTURE": "RotatedOneStageDetector",
    "MODEL__ROTATED_HEAD__NORM": "",
}
R3DET = {**_TWO_STAGES, "MODEL__ROTATED_HEAD__NAME": "RotatedR3DetHead"}
S2ANET = {
    **_TWO_STAGES,
    "MODEL__ROTATED_HEAD__NAME": "RotatedS2ANetHead",
    "MODEL__ROTATED_HEAD__ANCHOR_SCALES_PER_OCTAVE": 1,
    "MODEL__ROTATED_HEAD__ANCHOR_RATIOS": [1.0],
}
SIZE_HW = (160, 192)


def make_detector(head: str, **keys: object) -> nn.Module:
    """Return a small detector that finds some dozens of boxes, at different scores."""
    torch.manual_seed(0)
    detector = small_detector(head, **{"MODEL__ROTATED_HEAD__NUM_CONVS": 1, **keys})
    with torch.no_grad():
        nn.init.normal_(detector.head.class_predictor.weight, std=0.2)
        detector.head.class_predictor.bias.fill_(-2.0)
        for name in ("distance_predictor", "delta_predictor"):
            if hasattr(detector.head, name):
                nn.init.normal_(getattr(detector.head, name).weight, std=0.05)
                getattr(detector.head, name).bias.fill_(0.3)
        if detector.tcm is not None:
            detector.tcm.text_scale.fill_(0.5)
        # Some hundred candidates: all would take long, and hide a box among others.
        noise = torch.rand(1, 3, *SIZE_HW) * 255
        scores = DenseModel(detector, kind="dense")(noise)[1].flatten()
        detector.head.score_threshold = scores.topk(300).values[-1].item()
    return detector


def make_model(
    detector: nn.Module,
    kind: str,
    *,
    batch_size: int | None = None,
    size_hw: tuple[int, int] | None = None,
) -> tuple[DenseModel, dict]:
    model = DenseModel(detector, kind=kind)
    names = [f"class {i}" for i in range(detector.head.num_classes)]
    metadata = export_metadata(
        model, class_names=names, image_format="RGB", batch_size=batch_size, size_hw=size_hw
    )
    # As it comes out of a file.
    return model, json.loads(json.dumps(metadata))


def make_images(*sizes_hw: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8) for size_hw in sizes_hw]


def predict(detector: nn.Module, images: list[np.ndarray]) -> list[Instances]:
    inputs = [{"image": torch.from_numpy(image).permute(2, 0, 1)} for image in images]
    with torch.no_grad():
        return [output["instances"] for output in detector(inputs)]


def assert_same_boxes(found: list[BoxDetections], expected: list[Instances]) -> None:
    """Check the limits of the documentation: 0.1 px between corners, 0.001 between scores."""
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs) > 5 and len(ours.boxes) == len(theirs)
        # Nearly equal scores may change places: look for each box by itself.
        for box, score, name in zip(
            theirs.pred_boxes.tensor.numpy(), theirs.scores.numpy(), theirs.pred_classes.numpy()
        ):
            alike = (ours.class_ids == name) & (np.abs(ours.scores - score) < 1e-3)
            boxes = ours.boxes[alike]
            assert corner_distances(boxes, box[None].repeat(len(boxes), 0)).min(initial=9) < 0.1
        assert (np.diff(ours.scores) <= 0).all()


@pytest.mark.parametrize(
    ("head", "keys"),
    [("fcos", {}), ("atss", {}), ("retinanet", {}), ("retinanet", R3DET), ("retinanet", S2ANET)],
    ids=["fcos", "atss", "retinanet", "r3det", "s2anet"],
)
@pytest.mark.parametrize("kind", ["dense", "candidates"])
def test_function_and_numpy_give_the_detectors_boxes(head: str, keys: dict, kind: str) -> None:
    """Images of several sizes, none a multiple of 32."""
    detector = make_detector(head, **keys)
    model, metadata = make_model(detector, kind)

    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in model(torch.from_numpy(images))]

    images = make_images((150, 190), (100, 130))
    exported = ExportedDetector(run, metadata)
    assert_same_boxes(exported(images), predict(detector, images))


@pytest.mark.parametrize(
    ("head", "kind", "keys", "opset"),
    [
        ("fcos", "candidates", {}, 18),
        ("atss", "dense", FAST, 18),
        ("retinanet", "dense", {}, 18),
        ("retinanet", "dense", S2ANET, 19),
    ],
    ids=["fcos", "atss", "retinanet", "s2anet"],
)
def test_onnx_of_fixed_size(tmp_path: Path, head: str, kind: str, keys: dict, opset: int) -> None:
    detector = make_detector(head, **keys)
    model, metadata = make_model(detector, kind, batch_size=1, size_hw=SIZE_HW)
    program = trace(model, batch_size=1, size_hw=SIZE_HW, dynamic=False)
    save_onnx(program, tmp_path / "m.onnx", metadata, opset=opset)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    exported = ExportedDetector.from_onnx(tmp_path / "m.onnx")
    assert exported.metadata == metadata and len(exported.class_names) == 15
    # One after the other, and padded to the file's size.
    images = make_images(SIZE_HW, (150, 190))
    assert_same_boxes(exported(images), predict(detector, images))
    with pytest.raises(ValueError, match=r"at most 160 x 192 px .*, got 200 x 100; cut them"):
        exported(make_images((200, 100)))
    proto = onnx.load(tmp_path / "m.onnx")
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"} and not proto.functions
    # The text tower is folded into constants: nothing of its vocabulary is left.
    assert max(max(t.dims, default=1) for t in proto.graph.initializer) < 10_000


class Deformed(nn.Module):
    """A deformable convolution, which ONNX has from opset 19 on."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return deform_conv2d(images, images[:, :2], torch.ones(1, 3, 1, 1))


def test_an_operator_that_the_opset_has_not_is_named(tmp_path: Path) -> None:
    program = torch.export.export(Deformed(), (torch.rand(1, 3, 8, 8),))
    metadata = {"outputs": ["out"]}
    with pytest.raises(ExportError, match=r"DeformConv.*; try a higher --opset \(now 18\)"):
        save_onnx(program, tmp_path / "m.onnx", metadata, opset=18)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_onnx_of_any_batch_and_size(tmp_path: Path) -> None:
    detector = make_detector("fcos", **FAST)
    model, metadata = make_model(detector, "dense")
    program = trace(model, batch_size=1, size_hw=(192, 192), dynamic=True)
    save_onnx(program, tmp_path / "m.onnx", metadata, opset=18)
    exported = ExportedDetector.from_onnx(tmp_path / "m.onnx")
    for sizes_hw in ([(160, 160)], [(256, 192), (170, 300), (20, 20)]):
        images = make_images(*sizes_hw)
        assert_same_boxes(exported(images[:1]), predict(detector, images[:1]))
        together = exported(images)
        assert len(together) == len(images) and len(together[0].boxes) > 5


def test_torch_program(tmp_path: Path) -> None:
    detector = make_detector("atss")
    model, metadata = make_model(detector, "candidates", batch_size=1, size_hw=SIZE_HW)
    program = trace(model, batch_size=1, size_hw=SIZE_HW, dynamic=False)
    save_program(program, tmp_path / "m.pt2", metadata)
    extra = {files.METADATA_FILE: ""}
    loaded = torch.export.load(tmp_path / "m.pt2", extra_files=extra).module()
    exported = ExportedDetector(
        lambda images: [v.detach().numpy() for v in loaded(torch.from_numpy(images))],
        json.loads(extra[files.METADATA_FILE]),
    )
    images = make_images(SIZE_HW)
    assert_same_boxes(exported(images), predict(detector, images))


def test_detector_is_not_changed() -> None:
    detector = make_detector("fcos").train()
    names = list(detector.state_dict())
    DenseModel(detector, kind="dense")
    assert list(detector.state_dict()) == names and detector.training
    assert not detector.has_fixed_text and all(
        p.requires_grad for n, p in detector.named_parameters() if not n.startswith("text_encoder")
    )


def test_prompts_from_the_image_keep_the_text_tower() -> None:
    detector = make_detector("fcos", MODEL__TCM__PROMPT_GENERATOR="image")
    model, metadata = make_model(detector, "dense")
    images = make_images(SIZE_HW)

    def run(batch: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in model(torch.from_numpy(batch))]

    assert model.text is None
    assert_same_boxes(ExportedDetector(run, metadata)(images), predict(detector, images))


class _Odd(nn.Module):
    """Has an operator that ONNX lacks, or Python that looks at values."""

    output_names = ("boxes",)

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        if self.kind == "values":
            return (images[: int(images.sum())],)
        return (torch.ops.aten.polygamma(2, images),)


@pytest.mark.parametrize("kind", ["values", "operator"])
def test_failures_name_the_operator_and_a_way_out(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(ExportError, match=r"cannot be exported .*; try ") as caught:
        program = trace(_Odd(kind), batch_size=1, size_hw=(32, 32), dynamic=False)
        save_onnx(program, path, {"outputs": ["boxes"]}, opset=18)
    expected = "torch.export: " if kind == "values" else "ONNX: operator aten"
    assert str(caught.value).startswith(expected) and "\n" not in str(caught.value)
    assert ("polygamma" in str(caught.value)) == (kind == "operator") and not path.exists()


def test_custom_operators_are_refused() -> None:
    node = onnx.helper.make_node("NMSRotated", ["x"], ["y"], domain="mmdeploy")
    graph = onnx.helper.make_graph([node], "g", [], [])
    with pytest.raises(ExportError, match="outside the standard: mmdeploy::NMSRotated; export"):
        files.refuse_custom_operators(onnx.helper.make_model(graph))


@pytest.mark.parametrize(
    ("size_hw", "dynamic", "message"),
    [
        ((100, 128), False, "positive multiples of 32 px, got 100 x 128"),
        ((0, 32), False, "positive multiples of 32"),
        ((128, 256), True, "at least 160 px"),
    ],
)
def test_sizes_that_are_refused(size_hw: tuple[int, int], dynamic: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace(nn.Identity(), batch_size=1, size_hw=size_hw, dynamic=dynamic)


def test_other_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected one of dense, candidates, got 'nms'"):
        DenseModel(make_detector("fcos"), kind="nms")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(n, 1, [1]) for n in "xy")
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="expected one written by tcm-d2 export"):
        ExportedDetector.from_onnx(tmp_path / "x.onnx")
    _, metadata = make_model(make_detector("fcos"), "dense")
    with pytest.raises(ValueError, match=r"expected shape \(H, W, 3\), got \(3, 8, 8\)"):
        ExportedDetector(lambda images: [], metadata)([np.zeros((3, 8, 8))])
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"needs the package .*tcm_d2\[export\]"):
        save_onnx(None, tmp_path / "y.onnx", metadata, opset=18)


def test_differences_are_found() -> None:
    boxes = np.array([[[10.0, 10, 8, 4, 30], [5, 5, 6, 6, 0]]])
    scores = np.array([[0.5, 0.4]])
    moved = boxes + [[[0, 3.0, 0, 0, 0], [0, 0, 0, 0, 90]]]
    found = compare_outputs(("boxes", "scores"), (boxes, scores), (moved, scores + 0.25))
    assert found.corners_px == pytest.approx(3) and found.scores == pytest.approx(0.25)
    with pytest.raises(ValueError, match=r"'scores': expected shape \(1, 2\), got \(2,\)"):
        compare_outputs(("boxes", "scores"), (boxes, scores), (boxes, scores[0]))
