"""Rows of result files to arrays and back: kernel and twin against Python's float and format."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
import torch

from tcm_d2.ops import reference_text_rows
from tcm_d2.ops.text_rows import format_text_rows, parse_text_rows


def twin_parse(text: bytes, num_values: int) -> tuple[Any, ...]:
    content = torch.tensor(list(text), dtype=torch.uint8)
    return reference_text_rows.parse_text_rows(content, num_values)


def kernel_parse(text: bytes, num_values: int) -> tuple[Any, ...]:
    content = torch.tensor(list(text), dtype=torch.uint8)
    return tuple(torch.ops.tcm_d2.parse_text_rows(content, num_values))


def some_numbers() -> list[str]:
    """Numbers as tools write them: fixed, whole, exponents, all digits, more digits than exist."""
    rng = random.Random(0)
    texts = ["0", "-0.0", "+7", "1.", ".5", "1e-05", "2E+3", "9007199254740993", "1e22", "1e23"]
    texts += ["0.1", "123456789012345678901234567890", "0." + "3" * 40, "4.9e-324", "1e-400"]
    for _ in range(400):
        value = struct.unpack("<d", rng.randbytes(8))[0]
        if abs(value) < 1e300:
            texts.append(repr(value))
        texts.append(repr(rng.random()))
        texts.append(repr(struct.unpack("<f", struct.pack("<f", rng.random()))[0]))
        texts.append(f"{rng.uniform(-3e4, 3e4):.{rng.randrange(6)}f}")
    return texts


@pytest.mark.parametrize("parse", [kernel_parse, twin_parse])
def test_numbers_are_rounded_as_by_float(parse: Any) -> None:
    texts = some_numbers()
    content = "".join(f"P{index} {text}\n" for index, text in enumerate(texts)).encode()
    _, _, values, lines, bad = parse(content, 1)
    assert bad.tolist() == [] and lines.tolist() == list(range(1, len(texts) + 1))
    expected = [float(text) for text in texts]
    assert [struct.pack("<d", v) for v in values[:, 0].tolist()] == [
        struct.pack("<d", v) for v in expected
    ]


@pytest.mark.parametrize("parse", [kernel_parse, twin_parse])
def test_lines_ends_spaces_and_names(parse: Any) -> None:
    text = b"P2 1 2\r\n\r\n \t P1\t3  4 \rP2 5 6\n\n" + "\u00e4/b 7 8".encode()
    index, spans, values, lines, bad = parse(text, 2)
    assert [text[a:b].decode() for a, b in spans.tolist()] == ["P2", "P1", "\u00e4/b"]
    assert index.tolist() == [0, 1, 0, 2] and lines.tolist() == [1, 3, 4, 6]
    assert values.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]] and bad.tolist() == []


@pytest.mark.parametrize("parse", [kernel_parse, twin_parse])
@pytest.mark.parametrize(
    "line",
    [
        *("P 1", "P 1 2 3", "P 1 x", "P 1 nan", "P inf 1", "P 1 1e999", "P 1 0x10", "P 1 1_0"),
        *("P 1 .", "P 1 -", "P 1 1e", "P 1 1.2.3", "P 1 1e+", "P 1 --1", "P 1 1\u00a02", "P"),
    ],
)
def test_other_lines_are_listed(parse: Any, line: str) -> None:
    _, spans, values, lines, bad = parse(f"\nA 1 2\n{line}\nB 3 4\n".encode(), 2)
    assert bad.tolist() == [3] and lines.tolist() == [2, 4]
    assert values.tolist() == [[1, 2], [3, 4]] and len(spans) == 2


def test_empty_texts() -> None:
    rows = parse_text_rows(b"", num_values=9)
    assert rows.names == [] and rows.values.shape == (0, 9) and rows.lines.shape == (0,)
    none = torch.empty(0, dtype=torch.float64)
    empty = format_text_rows([], none.long(), none, none.reshape(0, 8), score_digits=9, decimals=2)
    assert empty == b""


def test_written_numbers_are_those_of_python() -> None:
    rng = random.Random(1)
    values = [0.125, 0.375, -0.125, 2.5, 0.005, 1.005, -0.001, 0.0, -0.0, 1e15, 3e300, 99999.995]
    values += [rng.uniform(-3e4, 3e4) for _ in range(300)]
    values += [rng.randrange(-(10**6), 10**6) / 8 for _ in range(300)]  # exact ties among them
    scores = [0.0, 1.0, 0.1, 0.99999999995, 0.9999999994, 1e-4, 9.9999e-5, 0.001, 1e-9, 12.5]
    scores += [0.01, 0.0999999999999, 0.5, 0.25 + 2**-40, -0.3, 1e30]
    scores += [rng.random() ** 4 for _ in range(200)]
    scores += [struct.unpack("<f", struct.pack("<f", rng.random()))[0] for _ in range(200)]
    num = min(len(values), len(scores))
    names = ["P0001", "\u00e4"]
    index = torch.arange(num) % 2
    pairs = torch.tensor(list(zip(values[:num], values[-num:])), dtype=torch.float64)
    score = torch.tensor(scores[:num], dtype=torch.float64)
    text = format_text_rows(names, index, score, pairs, score_digits=9, decimals=2)
    expected = "".join(
        f"{names[i % 2]} {s:.9g} {a:.2f} {b:.2f}\n"
        for i, (s, a, b) in enumerate(zip(scores, values[:num], values[-num:]))
    )
    assert text.decode() == expected
    encoded = "".join(names).encode()
    twin = reference_text_rows.format_text_rows(
        torch.tensor(list(encoded), dtype=torch.uint8),
        torch.tensor([[0, 5], [5, 7]]),
        index,
        score,
        pairs,
        9,
        2,
    )
    assert twin.numpy().tobytes() == text


def test_what_is_written_is_read_again() -> None:
    values = torch.rand(50, 8, dtype=torch.float64) * 4000 - 100
    scores = torch.rand(50).double()
    index = torch.arange(50) % 3
    text = format_text_rows(["a", "b", "c"], index, scores, values, score_digits=9, decimals=2)
    rows = parse_text_rows(text, num_values=9)
    assert rows.names == ["a", "b", "c"] and torch.equal(rows.name_index, index)
    assert torch.equal(rows.values[:, 0].float(), scores.float())
    assert (rows.values[:, 1:] - values).abs().max() <= 0.005 + 1e-9
