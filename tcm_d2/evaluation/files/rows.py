"""Parse DOTA result files: ``Task1_<class>.txt`` (oriented boxes), ``Task2_<class>.txt`` (upright).

A row is ``image_id score x1 y1 x2 y2 x3 y3 x4 y4`` (Task 1) or ``image_id score x1 y1 x2 y2``
(Task 2: left, top, right, bottom), in pixels of the whole image. Upright boxes are kept as quads,
so that everything after reading knows one kind of row.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcm_d2.evaluation.files.escapes import (
    decode_file_part,
    decode_image_id,
    encode_file_part,
    encode_image_id,
)
from tcm_d2.files import checked_name
from tcm_d2.structures.arrays import FloatArray, IntArray
from tcm_d2.structures.detections import ClassDetections
from tcm_d2.structures.quads import HBOX_CORNERS

Task = Literal[1, 2]
TASKS: tuple[int, ...] = (1, 2)
# Fields of a row.
FIELD_NAMES: dict[int, str] = {
    1: "image_id score x1 y1 x2 y2 x3 y3 x4 y4",
    2: "image_id score x1 y1 x2 y2",
}
NUM_FIELDS = {task: len(names.split()) for task, names in FIELD_NAMES.items()}
_UTF8_MARK = b"\xef\xbb\xbf"
# Rows of numbers shrink by 2 to 10 when packed.
_MAX_INFLATION = 100
_SMALL_ENTRY_BYTES = 1 << 24
_PATCH_NAME = re.compile(r".+__[\d.]+__-?\d+___-?\d+")


class LintProblem(NamedTuple):
    """One complaint: the rule's name, where (file or file:line), and a sentence.

    A note says what is no fault, and yet may not be meant.
    """

    rule: str
    where: str
    message: str
    is_note: bool = False


class ResultFile(NamedTuple):
    """A file of a folder or zip: where it is for people, its path inside, and its bytes."""

    where: str
    inner_path: PurePosixPath
    content: bytes


class ParsedFile(NamedTuple):
    """The good rows of a file, the line of each (D,), and what is wrong with the others."""

    rows: ClassDetections
    lines: IntArray
    problems: list[LintProblem]


def looks_like_patch_name(image_id: str) -> bool:
    """Say whether ``image_id`` is the name of a patch, such as ``P0000__1024__0___824``."""
    return _PATCH_NAME.fullmatch(image_id) is not None


def result_file_name(class_name: str, *, task: Task = 1) -> str:
    """Return the file name the server expects for a class.

    What no file name can hold is written as in URLs: ``car/van`` as ``car%2Fvan``; `class_of_file`
    gives the name back.

    Raises:
        ValueError: the name is too long for a file.
    """
    encoded = encode_file_part(class_name)
    return checked_name(f"Task{task}_{encoded}.txt", where=f"result file of class {class_name!r}")


def class_of_file(file_name: str, *, task: Task = 1) -> str | None:
    """Return the class of a result file, None when it is not one."""
    match = re.fullmatch(rf"Task{task}_(.+)\.txt", file_name)
    return None if match is None else decode_file_part(match[1])


def read_result_files(path: str | Path) -> list[ResultFile]:
    """Return the files of a folder (not of its folders) or of a zip, sorted by path.

    Raises:
        FileNotFoundError: when there is neither.
        ValueError: when the zip cannot be read.
    """
    source = Path(path)
    if source.is_dir():
        files = sorted(file for file in source.iterdir() if file.is_file())
        return [
            ResultFile(str(file), PurePosixPath(file.name), file.read_bytes())
            for file in files
            if not file.name.startswith(".")
        ]
    if not source.is_file():
        raise FileNotFoundError(
            f"{source}: expected a folder or a zip with Task1_<class>.txt files, or the like"
        )
    try:
        with zipfile.ZipFile(source) as archive:
            names = sorted(name for name in archive.namelist() if not name.endswith("/"))
            for name in names:
                _check_inflation(f"{source}/{name}", archive.getinfo(name))
            return [
                ResultFile(f"{source}/{name}", PurePosixPath(name), archive.read(name))
                for name in names
            ]
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"{source}: expected a zip that can be read, got {error}; pack or download it again"
        ) from error


def _check_inflation(where: str, entry: zipfile.ZipInfo) -> None:
    """Refuse what no rows give: gigabytes out of a small zip (no more than the head says is read).

    Raises:
        ValueError: for such an entry.
    """
    if entry.file_size > max(_SMALL_ENTRY_BYTES, _MAX_INFLATION * entry.compress_size):
        raise ValueError(
            f"{where}: expected rows of text, got {entry.compress_size} bytes that unpack to "
            f"{entry.file_size}; pack the result files again"
        )


def is_shadow(file: ResultFile) -> bool:
    """Say whether a file is one that macOS adds to zips; it holds nothing for us."""
    return "__MACOSX" in file.inner_path.parts


def parse_result_file(file: ResultFile, *, task: Task = 1) -> ParsedFile:
    """Parse all good rows, and list the bad ones; escapes in image ids are undone.

    Raises:
        ValueError: when the file is not UTF-8 text.
    """
    content = file.content.removeprefix(_UTF8_MARK)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.where}: expected UTF-8 text, got other bytes ({error})") from error
    rows = content.splitlines()
    table = _parse_at_once(text, NUM_FIELDS[task] - 1)
    if table is None:
        return _parse_by_row(rows, file.where, task)
    lines = [line for line, row in enumerate(rows, start=1) if row and not row.isspace()]
    names = table["image_id"].tolist()
    image_id_of = {name: decode_image_id(name) for name in set(names)}
    image_ids = [image_id_of[name] for name in names]
    detections = _to_detections(image_ids, table["values"], task)
    return ParsedFile(detections, np.array(lines, np.int64), [])


def _parse_at_once(text: str, num_values: int) -> NDArray[np.void] | None:
    """Return image_id and values (num_values,) of each row; None where a row may be odd.

    Takes 0.4 of the time of going row by row.
    """
    # To numpy the white space of other scripts separates fields, too; and it warns of no rows.
    if not text.isascii() or not text.strip():
        return None
    dtype = [("image_id", object), ("values", np.float64, num_values)]
    try:
        stream = io.StringIO(text, newline=None)
        table = np.loadtxt(stream, dtype=dtype, comments=None, ndmin=1)
    except ValueError:
        return None
    return table if np.isfinite(table["values"]).all() else None


def _parse_by_row(rows: Sequence[bytes], where: str, task: Task) -> ParsedFile:
    image_ids, values, lines, problems = [], [], [], []
    for line, row in enumerate(rows, start=1):
        fields = [field.decode("utf-8") for field in row.split()]
        if not fields:
            continue
        numbers = _to_finite_numbers(fields[1:])
        if numbers is None or len(fields) != NUM_FIELDS[task]:
            problems.append(_explain_row(fields, f"{where}:{line}", task))
            continue
        image_ids.append(decode_image_id(fields[0]))
        values.append(numbers)
        lines.append(line)
    table = np.array(values, np.float64).reshape(-1, NUM_FIELDS[task] - 1)
    detections = _to_detections(image_ids, table, task)
    return ParsedFile(detections, np.array(lines, np.int64), problems)


def _to_detections(image_ids: list[str], values: FloatArray, task: Task) -> ClassDetections:
    corners = values[:, 1:] if task == 1 else values[:, 1:][:, HBOX_CORNERS]
    quads = np.ascontiguousarray(corners).reshape(-1, 4, 2)
    return ClassDetections(image_ids, values[:, 0].copy(), quads)


def _to_finite_numbers(fields: Sequence[str]) -> list[float] | None:
    try:
        numbers = list(map(float, fields))
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _explain_row(fields: Sequence[str], where: str, task: Task) -> LintProblem:
    """Say what is wrong with the fields of a row that is known to be bad."""
    if len(fields) != NUM_FIELDS[task]:
        message = f"expected {NUM_FIELDS[task]} fields ({FIELD_NAMES[task]}), got {len(fields)}; "
        num_values = NUM_FIELDS[task] - 1
        if len(fields) > NUM_FIELDS[task] and _to_finite_numbers(fields[-num_values:]) is not None:
            image_id = " ".join(fields[:-num_values])
            message += f"is the image id {image_id!r}? write it as {encode_image_id(image_id)}"
        else:
            message += "correct the row, or write all rows again"
        return LintProblem("field-count", where, message)
    text = next(field for field in fields[1:] if _to_finite_numbers([field]) is None)
    try:
        float(text)
    except ValueError:
        message = f"expected a number, got {text!r}; correct the row"
        return LintProblem("not-a-number", where, message)
    message = f"expected a finite number, got {text!r}; drop such detections"
    return LintProblem("non-finite", where, message)
