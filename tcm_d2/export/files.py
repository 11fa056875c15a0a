"""Write a detector to an ONNX or torch.export file, and say what is in the way where that fails."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

import tcm_d2
from tcm_d2.export.dense_model import DenseModel
from tcm_d2.files import write_atomically
from tcm_d2.modeling.detector import SIZE_DIVISIBILITY_PX

logger = logging.getLogger(__name__)

SUFFIXES = (".onnx", ".pt2")
INPUT_NAME = "images"
# Name of the facts inside a .pt2 file; in ONNX they are the model's metadata.
METADATA_FILE = "metadata.json"
METADATA_KEY = "tcm_d2"
# Below five cells of stride 32 the coarsest level has one, which torch.export takes for a constant.
MIN_DYNAMIC_CELLS, MAX_DYNAMIC_CELLS, MAX_BATCH = 5, 1024, 1024
# Domains of the standard's own operators.
_STANDARD_DOMAINS = ("", "ai.onnx")
_OPERATOR = re.compile(r"\b(?:aten|prims|tcm_d2|torchvision)(?:::|\.)[\w.]+")


class ExportError(ValueError):
    """Something in the model cannot be written; the message names it and says what to do."""


def export_metadata(
    model: DenseModel,
    *,
    class_names: Sequence[str],
    image_format: str,
    batch_size: int | None,
    size_hw: tuple[int, int] | None,
) -> dict[str, Any]:
    """Return what a program needs to know to use the file: plain values.

    Args:
        model: the model to be written.
        class_names: in label order.
        image_format: order of the input's channels, such as "RGB".
        batch_size: images at a time; None for any number.
        size_hw: of the input; None for any multiples of 32.
    """
    head = model.detector.head
    return {
        "writer": f"tcm_d2 {tcm_d2.__version__}",
        "kind": model.kind,
        "outputs": list(model.output_names),
        "class_names": list(class_names),
        "image_format": image_format,
        "batch_size": batch_size,
        "size_hw": None if size_hw is None else list(size_hw),
        "size_divisor_px": SIZE_DIVISIBILITY_PX,
        "pixel_mean": model.detector.pixel_mean.flatten().tolist(),
        "strides_px": list(head.strides_px),
        "anchors_per_cell": head.anchors_per_cell,
        "clamps_centers": head.clamps_centers,
        "score_threshold": head.score_threshold,
        "topk_candidates": head.topk_candidates,
        "nms_threshold": head.nms_threshold,
        "max_detections": head.max_detections,
    }


def trace(
    model: DenseModel, *, batch_size: int, size_hw: tuple[int, int], dynamic: bool
) -> ExportedProgram:
    """Return the model as a torch.export program.

    Args:
        model: on the CPU.
        batch_size: of the example; with ``dynamic`` any other will do.
        size_hw: of the example, multiples of 32.
        dynamic: any batch size, and any sizes that are multiples of 32 from 160 px on.

    Raises:
        ValueError: a size is no multiple of 32, or too small.
        ExportError: torch.export cannot follow the model.
    """
    for side in size_hw:
        if side < SIZE_DIVISIBILITY_PX or side % SIZE_DIVISIBILITY_PX:
            raise ValueError(
                f"image size: expected positive multiples of {SIZE_DIVISIBILITY_PX} px, got "
                f"{size_hw[0]} x {size_hw[1]}"
            )
    smallest = MIN_DYNAMIC_CELLS * SIZE_DIVISIBILITY_PX
    if dynamic and min(size_hw) < smallest:
        raise ValueError(
            f"image size: expected at least {smallest} px for an export of dynamic size, got "
            f"{size_hw[0]} x {size_hw[1]}; give a larger example, or a fixed size"
        )
    shapes = None
    if dynamic:
        # One image, or equal sides, would be taken for constants.
        batch_size = max(batch_size, 2)
        if size_hw[0] == size_hw[1]:
            size_hw = (size_hw[0], size_hw[1] + SIZE_DIVISIBILITY_PX)
        rows, columns = (
            SIZE_DIVISIBILITY_PX * Dim(name, min=MIN_DYNAMIC_CELLS, max=MAX_DYNAMIC_CELLS)
            for name in ("rows", "columns")
        )
        shapes = ({0: Dim("batch", min=1, max=MAX_BATCH), 2: rows, 3: columns},)
    example = torch.zeros(batch_size, 3, *size_hw)
    try:
        return torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever the tracer stumbles over
        message = _explain(error, "torch.export", "a fixed size (without --dynamic)")
        raise ExportError(message) from error


def save_program(program: ExportedProgram, path: str | os.PathLike[str], metadata: dict) -> None:
    """Write a ``.pt2`` file that torch runs without tcm_d2; never half of one.

    Args:
        program: from `trace`.
        path: to write.
        metadata: see `export_metadata`.
    """
    extra = {METADATA_FILE: json.dumps(metadata)}
    write_atomically(
        Path(path), lambda stream: torch.export.save(program, stream, extra_files=extra)
    )


def save_onnx(
    program: ExportedProgram,
    path: str | os.PathLike[str],
    metadata: dict[str, Any],
    *,
    opset: int,
) -> None:
    """Write an ONNX file of standard operators; never half of one.

    Args:
        program: from `trace`.
        path: to write.
        metadata: see `export_metadata`.
        opset: version of ONNX's operators.

    Raises:
        ImportError: the packages of the extra ``export`` are missing.
        ExportError: an operator has no counterpart in that version.
    """
    onnx = _import_onnx()
    try:
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=metadata["outputs"],
            optimize=True,
            verbose=False,
        )
        model = converted.model_proto
        refuse_custom_operators(model)
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
        onnx.checker.check_model(model)  # a newer operator than the opset has
    except ExportError:
        raise
    except Exception as error:  # whatever the converter stumbles over
        advice = f"a higher --opset (now {opset}), newer torch and onnxscript, or a .pt2 file"
        raise ExportError(_explain(error, "ONNX", advice)) from error
    content = model.SerializeToString()
    write_atomically(Path(path), lambda stream: stream.write(content))


def refuse_custom_operators(model: Any) -> None:
    """Check that an ONNX model can be run by every runtime of its opset.

    Raises:
        ExportError: an operator is none of the standard's.
    """
    nodes = [*model.graph.node, *(node for f in model.functions for node in f.node)]
    custom = sorted(
        {f"{n.domain}::{n.op_type}" for n in nodes if n.domain not in _STANDARD_DOMAINS}
    )
    own = {f"{f.domain}::{f.name}" for f in model.functions}
    custom = [name for name in custom if name not in own]
    if custom:
        raise ExportError(
            f"ONNX: the file would need operators outside the standard: {', '.join(custom)}; "
            "export kind 'dense', whose operators are all standard"
        )


def _import_onnx() -> Any:
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise ImportError(
            f"ONNX export needs the package {error.name!r}: pip install 'tcm_d2[export]'"
        ) from None
    return onnx


def _explain(error: Exception, target: str, advice: str) -> str:
    """Return one line that names the operator in an exporter's error and what else to try."""
    chain: BaseException | None = error
    text = ""
    while chain is not None:
        text += f"{chain}\n"
        chain = chain.__cause__ or chain.__context__
    operators = sorted(set(_OPERATOR.findall(text)))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0][:300] if lines else type(error).__name__
    named = f"operator {', '.join(operators[:3])}" if operators else "the model"
    return f"{target}: {named} cannot be exported ({reason}); try {advice}"
