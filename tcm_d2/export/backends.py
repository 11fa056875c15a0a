"""Run a detector's network in another program: onnxruntime or OpenVINO.

For machines where tcm_d2's operators cannot be compiled. The network is exported when the detector
is opened; decoding and NMS stay those of `ExportedDetector`.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Instances, RotatedBoxes
from torch import nn

from tcm_d2.export.dense_model import DenseModel
from tcm_d2.export.files import export_metadata, save_onnx, trace
from tcm_d2.export.running import ExportedDetector, Run
from tcm_d2.modeling.dense.decode import rescale

# Of the example that is traced; the file takes any size.
_EXAMPLE_HW = (192, 192)
# The first with deformable convolutions, which S2A-Net has.
_OPSET = 19


def _onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def _openvino(path: Path) -> Run:
    import openvino

    # Else processors with products in bfloat16 would round to it.
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    network = openvino.Core().compile_model(path, "CPU", options)
    return lambda images: list(network([images]).values())


BACKENDS: dict[str, Callable[[Path], Run]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}


class ExportedNetwork(nn.Module):
    """A detector in evaluation, called as the original is, whose network runs elsewhere."""

    def __init__(self, exported: ExportedDetector) -> None:
        super().__init__()
        self.exported = exported

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Return what the detector does in evaluation."""
        images = [inputs["image"].permute(1, 2, 0).numpy() for inputs in batched_inputs]
        found = []
        for image, inputs, boxes in zip(images, batched_inputs, self.exported(images), strict=True):
            instances = Instances(image.shape[:2])
            instances.pred_boxes = RotatedBoxes(torch.from_numpy(boxes.boxes))
            instances.scores = torch.from_numpy(boxes.scores)
            instances.pred_classes = torch.from_numpy(boxes.class_ids)
            found.append({"instances": rescale(instances, inputs)})
        return found


def check_backend(backend: str) -> None:
    """Raise where a backend is unknown or a package that it needs is missing.

    Raises:
        ValueError: there is no such backend.
        ImportError: a package is missing; says which, and how to install it.
    """
    if backend not in BACKENDS:
        known = ", ".join(["torch", *BACKENDS])
        raise ValueError(f"backend: expected one of {known}, got {backend!r}")
    extra = "openvino" if backend == "openvino" else "export"
    for package in (backend, "onnx", "onnxscript"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"backend: {backend!r} needs the package {package} ({error}): pip install "
                f"'tcm_d2[{extra}]'"
            ) from None


def export_network(detector: Any, backend: str, *, image_format: str) -> ExportedNetwork:
    """Return a detector whose network runs in another program on the CPU.

    Args:
        detector: on the CPU, in evaluation; stays as it is.
        backend: a key of `BACKENDS`.
        image_format: order of the input's channels, such as "RGB".

    Raises:
        ValueError, ImportError: see `check_backend`.
        ExportError: the network cannot be exported.
    """
    check_backend(backend)
    model = DenseModel(detector, kind="dense")
    metadata = export_metadata(
        model,
        class_names=[str(index) for index in range(detector.head.num_classes)],
        image_format=image_format,
        batch_size=None,
        size_hw=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        program = trace(model, batch_size=1, size_hw=_EXAMPLE_HW, dynamic=True)
        save_onnx(program, path, metadata, opset=_OPSET)
        return ExportedNetwork(ExportedDetector(BACKENDS[backend](path), metadata))
