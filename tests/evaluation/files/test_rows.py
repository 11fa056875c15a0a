"""Rows of result files: what counts as a line, a field and a number."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np
import pytest

from tcm_d2.evaluation.files.rows import ParsedFile, ResultFile, parse_result_file


def parse(content: bytes) -> ParsedFile:
    return parse_result_file(ResultFile("f", PurePosixPath("f"), content), task=2)


def test_line_ends_spaces_and_names() -> None:
    text = b"P2 1 2 3 4 5\r\n\r\n \t P1\t.6  7. +8\v9e0 10\f \rP2 1 2 3 4 5\n\n"
    parsed = parse(text + "\u00e4/b 1 2 3 4 5".encode())
    assert parsed.rows.image_ids == ["P2", "P1", "P2", "\u00e4/b"]
    assert parsed.lines.tolist() == [1, 3, 4, 6] and not parsed.problems
    np.testing.assert_array_equal(parsed.rows.scores, [1, 0.6, 1, 1])
    assert parsed.rows.quads[1].tolist() == [[7, 8], [9, 8], [9, 10], [7, 10]]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        *((f"P 1 2 3 4 {text}", "not-a-number") for text in ("x", "0x10", ".", "-", "1e", "1.2.3")),
        *((f"P 1 2 3 4 {text}", "non-finite") for text in ("nan", "-inf", "1e999")),
        *((line, "field-count") for line in ("P", "P 1 2 3 4", "P 1 2 3 4 5 6", "P 1 2 3 4 5 x")),
    ],
)
def test_bad_rows_are_listed_and_the_others_read(line: str, rule: str) -> None:
    parsed = parse(f"\nA 1 2 3 4 5\n{line}\nB 1 2 3 4 1e308\n".encode())
    assert [(p.rule, p.where) for p in parsed.problems] == [(rule, "f:3")]
    assert parsed.rows.image_ids == ["A", "B"] and parsed.lines.tolist() == [2, 4]


def test_no_rows() -> None:
    parsed = parse(b"\xef\xbb\xbf\n \n")
    assert parsed.rows.quads.shape == (0, 4, 2) and parsed.lines.shape == (0,)


def test_a_blank_in_an_image_id_is_suspected() -> None:
    (problem,) = parse(b"scene 1 0.9 1 2 3 4\n").problems
    assert problem.message.endswith("is the image id 'scene 1'? write it as scene%201")
