"""Plain-Python twins of the operators on result files; see tcm_d2.ops.text_rows."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

_LINE_END = re.compile(rb"\r\n|\r|\n")
_FIELD = re.compile(rb"[^ \t\v\f]+")
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


def parse_text_rows(text: Tensor, num_values: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return name index (D,), name spans (U, 2), values (D, C), lines (D,) and bad lines (E,)."""
    content = text.numpy().tobytes()
    index_of: dict[bytes, int] = {}
    spans: list[tuple[int, int]] = []
    name_index, values, lines, bad_lines = [], [], [], []
    start = 0
    for line_number, line in enumerate(_LINE_END.split(content), start=1):
        fields = list(_FIELD.finditer(line))
        if fields:
            numbers = _to_numbers([field.group() for field in fields[1:]], num_values)
            if numbers is None:
                bad_lines.append(line_number)
            else:
                name = fields[0].group()
                if name not in index_of:
                    index_of[name] = len(index_of)
                    spans.append((start + fields[0].start(), start + fields[0].end()))
                name_index.append(index_of[name])
                values.append(numbers)
                lines.append(line_number)
        start += len(line)
        start += 2 if content[start : start + 2] == b"\r\n" else 1
    return (
        torch.tensor(name_index, dtype=torch.int64),
        torch.tensor(spans, dtype=torch.int64).reshape(-1, 2),
        torch.tensor(values, dtype=torch.float64).reshape(len(values), num_values),
        torch.tensor(lines, dtype=torch.int64),
        torch.tensor(bad_lines, dtype=torch.int64),
    )


def format_text_rows(
    names: Tensor,
    name_spans: Tensor,
    name_index: Tensor,
    scores: Tensor,
    values: Tensor,
    score_digits: int,
    decimals: int,
) -> Tensor:
    """Return the rows as uint8 text."""
    content = names.numpy().tobytes()
    decoded = [content[start:stop].decode("utf-8") for start, stop in name_spans.tolist()]
    row_format = f"%s %.{score_digits}g" + f" %.{decimals}f" * values.shape[1] + "\n"
    rows = zip(name_index.tolist(), scores.tolist(), values.tolist())
    text = "".join(row_format % (decoded[name], score, *row) for name, score, row in rows)
    if not text:
        return names.new_empty(0)
    return torch.frombuffer(bytearray(text.encode("utf-8")), dtype=torch.uint8)


def _to_numbers(fields: list[bytes], num_values: int) -> list[float] | None:
    if len(fields) != num_values or not all(map(_NUMBER.fullmatch, fields)):
        return None
    numbers = [float(field) for field in fields]
    return numbers if all(map(math.isfinite, numbers)) else None
