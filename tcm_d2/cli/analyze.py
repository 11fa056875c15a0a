"""The command tcm-d2 analyze."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from tabulate import tabulate
from torch import Tensor, nn

from tcm_d2.config.registries import import_user_parts
from tcm_d2.config.run import open_config
from tcm_d2.files import write_bytes_atomically

# The image tower's coarsest stride, to which images are padded.
_DIVISOR_PX = 32


class Row(NamedTuple):
    """Counts of a module with all that is in it.

    Attributes:
        name: "" for the whole model.
        num_parameters: numbers that are trained or loaded.
        num_trainable: those that get a gradient.
        multiply_adds: per image.
        activations: per image.
    """

    name: str
    num_parameters: int
    num_trainable: int
    multiply_adds: int
    activations: int


class DenseOutputs(nn.Module):
    """A detector from normalised images to the head's outputs, as a flat list of tensors."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return all outputs for images (N, 3, H, W)."""
        detector = self.detector
        text = None
        if detector.tcm is not None and not detector.tcm.text_needs_image:
            text = detector.class_embeddings()
        output, score_map_NKHW = detector.dense_output(images, text)
        outputs = _tensors(output)
        return outputs if score_map_NKHW is None else [*outputs, score_map_NKHW]


def count(detector: nn.Module, size_hw: tuple[int, int], *, depth: int) -> list[Row]:
    """Return the counts of a detector and of its parts down to a depth, in the model's order."""
    wrapped = DenseOutputs(detector)
    # Through training: the model forgets what it has kept, which would be taken as given.
    wrapped.train().eval()
    device = next(detector.parameters()).device
    padded_hw = [-(-n // _DIVISOR_PX) * _DIVISOR_PX for n in size_hw]
    images = torch.zeros(1, 3, *padded_hw, device=device)
    with torch.no_grad():
        flops = _quiet(FlopCountAnalysis(wrapped, images))
        flops.set_op_handle("aten::scaled_dot_product_attention", _count_attention)
        flops.set_op_handle("aten::baddbmm", _count_batched_product)
        flops_of: Counter[str] = flops.by_module()
        wrapped.train().eval()
        activations_of: Counter[str] = _quiet(ActivationCountAnalysis(wrapped, images)).by_module()
    rows = []
    for name, module in wrapped.named_modules():
        inner = name.removeprefix("detector").removeprefix(".")
        if not name.startswith("detector") or (inner and inner.count(".") >= depth):
            continue
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        if inner and not sizes and not flops_of[name]:
            continue
        rows.append(
            Row(
                inner,
                sum(n for n, _ in sizes),
                sum(n for n, needs in sizes if needs),
                int(flops_of[name]),
                int(activations_of[name]),
            )
        )
    return rows


def format_table(rows: Sequence[Row], *, table_format: str) -> str:
    """Return a table, the whole model last."""
    ordered = [*rows[1:], rows[0]]
    cells = [
        [
            row.name or "total",
            f"{row.num_parameters / 1e6:.2f}",
            f"{row.num_trainable / 1e6:.2f}",
            f"{row.multiply_adds / 1e9:.2f}",
            f"{row.activations / 1e6:.2f}",
        ]
        for row in ordered
    ]
    heads = ["part", "parameters (M)", "trainable (M)", "GFLOPs", "activations (M)"]
    align = ["left", *["right"] * 4]
    return tabulate(
        cells, headers=heads, tablefmt=table_format, colalign=align, disable_numparse=True
    )


def run(args: argparse.Namespace) -> int:
    """Count and print; return 0, or 1 after a message on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        import_user_parts(args.imports)
        # Counts do not depend on the weights.
        detector = open_config(args.config_file, args.opts).build_model(with_part_weights=False)
        rows = count(detector, args.size, depth=args.depth)
        if args.json is not None:
            content = {row.name or "total": {**row._asdict()} for row in rows}
            write_bytes_atomically(args.json, f"{json.dumps(content, indent=2)}\n".encode())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.config_file}, one image of {args.size[0]} x {args.size[1]} px")
    print(format_table(rows, table_format=args.format))
    return 0


def _quiet(analysis: Any) -> Any:
    """Return fvcore's analysis without its warnings of operators that cost next to nothing."""
    return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)


def _count_attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of softmax(q k^T) v: q (..., L, E), k (..., S, E), v (..., S, V)."""
    query, key, value = (entry.type().sizes() for entry in inputs[:3])
    length, width = query[-2:]
    num_heads = 1
    for n in query[:-2]:
        num_heads *= n
    return num_heads * length * key[-2] * (width + value[-1])


def _count_batched_product(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of a + b c: b (B, L, M), c (B, M, S)."""
    (batch, rows, inner), columns = inputs[1].type().sizes(), inputs[2].type().sizes()[-1]
    return int(batch * rows * inner * columns)


def _tensors(value: Any) -> list[Tensor]:
    """Return all tensors in nested tuples, lists, dicts and objects of the heads."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    if hasattr(value, "__dataclass_fields__"):
        return _tensors([getattr(value, name) for name in value.__dataclass_fields__])
    return []
