"""Rows ``name number number ...`` of result files: bytes to arrays, and arrays to bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tcm_d2.ops import reference_text_rows
from tcm_d2.ops.registration import Operator, register


class TextRows(NamedTuple):
    """Rows of a text.

    Attributes:
        names: the distinct first fields, in order of appearance.
        name_index: (D,) int64, the name of each row.
        values: (D, C) float64.
        lines: (D,) int64 line of each row, from 1.
        bad_lines: (E,) int64 lines that are neither empty nor a row: another number of fields, or
            fields that are not plain finite decimal numbers.
    """

    names: list[str]
    name_index: Tensor
    values: Tensor
    lines: Tensor
    bad_lines: Tensor


def parse_text_rows(text: bytes, *, num_values: int) -> TextRows:
    """Parse rows of a name and ``num_values`` numbers between ASCII white space.

    Lines end with a line feed, a carriage return or both. Numbers are correctly rounded, as by
    ``float``.

    Raises:
        UnicodeDecodeError: when a name is not UTF-8.
    """
    content = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else _no_bytes()
    index, spans, values, lines, bad = torch.ops.tcm_d2.parse_text_rows(content, num_values)
    names = [text[start:stop].decode("utf-8") for start, stop in spans.tolist()]
    return TextRows(names, index, values, lines, bad)


def format_text_rows(
    names: Sequence[str],
    name_index: Tensor,
    scores: Tensor,
    values: Tensor,
    *,
    score_digits: int,
    decimals: int,
) -> bytes:
    """Return rows ``name score value value ...``, each with a line feed at its end.

    The bytes are those of ``"%s %.9g %.2f ..."`` for 9 digits and 2 decimals.

    Args:
        names: distinct names without white space.
        name_index: (D,) int64, the name of each row.
        scores: (D,) float64, written with ``score_digits`` significant digits (at most 15).
        values: (D, C) float64, written with ``decimals`` decimals (at most 15).
    """
    encoded = [name.encode("utf-8") for name in names]
    ends = torch.cumsum(torch.tensor([0] + [len(name) for name in encoded]), dim=0)
    joined = b"".join(encoded)
    content = torch.frombuffer(bytearray(joined), dtype=torch.uint8) if joined else _no_bytes()
    spans = torch.stack([ends[:-1], ends[1:]], dim=1)
    result: Tensor = torch.ops.tcm_d2.format_text_rows(
        content, spans, name_index, scores, values, score_digits, decimals
    )
    return result.numpy().tobytes()


def _no_bytes() -> Tensor:
    return torch.empty(0, dtype=torch.uint8)


def _fake_parse_text_rows(
    text: Tensor, num_values: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_rows, num_names, num_bad = (torch.library.get_ctx().new_dynamic_size() for _ in range(3))
    index = text.new_empty((num_rows,), dtype=torch.int64)
    return (
        index,
        text.new_empty((num_names, 2), dtype=torch.int64),
        text.new_empty((num_rows, num_values), dtype=torch.float64),
        index.clone(),
        text.new_empty((num_bad,), dtype=torch.int64),
    )


def _fake_format_text_rows(
    names: Tensor,
    name_spans: Tensor,
    name_index: Tensor,
    scores: Tensor,
    values: Tensor,
    score_digits: int,
    decimals: int,
) -> Tensor:
    return names.new_empty((torch.library.get_ctx().new_dynamic_size(),))


register(
    Operator(
        name="parse_text_rows",
        schema="(Tensor text, int num_values) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
        kernels="cpu/text_rows",
        reference=reference_text_rows.parse_text_rows,
        fake=_fake_parse_text_rows,
        devices=("cpu",),
    )
)
register(
    Operator(
        name="format_text_rows",
        schema=(
            "(Tensor names, Tensor name_spans, Tensor name_index, Tensor scores, Tensor values,"
            " int score_digits, int decimals) -> Tensor"
        ),
        kernels="cpu/text_rows",
        reference=reference_text_rows.format_text_rows,
        fake=_fake_format_text_rows,
        devices=("cpu",),
    )
)
