"""Parse DOTA result files: ``Task1_<class>.txt`` (oriented boxes), ``Task2_<class>.txt`` (upright).

A row is ``image_id score x1 y1 x2 y2 x3 y3 x4 y4`` (Task 1) or ``image_id score x1 y1 x2 y2``
(Task 2: left, top, right, bottom), in pixels of the whole image. Upright boxes are kept as quads,
so that everything after reading knows one kind of row.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from tcm_d2.evaluation.files.image_ids import decode_image_id
from tcm_d2.evaluation.scoring.quad_iou import FloatArray, IntArray
from tcm_d2.ops.text_rows import parse_text_rows
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
_PATCH_NAME = re.compile(r".+__[\d.]+__-?\d+___-?\d+")


class ClassDetections(NamedTuple):
    """Rows of one class in file order: image_ids [D], scores (D,), quads (D, 4, 2) float64."""

    image_ids: list[str]
    scores: FloatArray
    quads: FloatArray


class LintProblem(NamedTuple):
    """One complaint: the rule's name, where (file or file:line), and a sentence."""

    rule: str
    where: str
    message: str


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


def no_detections() -> ClassDetections:
    """Return zero rows."""
    return ClassDetections([], np.empty(0, np.float64), np.empty((0, 4, 2), np.float64))


def looks_like_patch_name(image_id: str) -> bool:
    """Say whether ``image_id`` is the name of a patch, such as ``P0000__1024__0___824``."""
    return _PATCH_NAME.fullmatch(image_id) is not None


def result_file_name(class_name: str, *, task: Task = 1) -> str:
    """Return the file name the server expects for a class."""
    return f"Task{task}_{class_name}.txt"


def class_of_file(file_name: str, *, task: Task = 1) -> str | None:
    """Return the class of a result file, None when it is not one."""
    match = re.fullmatch(rf"Task{task}_(.+)\.txt", file_name)
    return None if match is None else match[1]


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
            return [
                ResultFile(f"{source}/{name}", PurePosixPath(name), archive.read(name))
                for name in names
            ]
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"{source}: expected a zip that can be read, got {error}; pack or download it again"
        ) from error


def is_shadow(file: ResultFile) -> bool:
    """Say whether a file is one that macOS adds to zips; it holds nothing for us."""
    return "__MACOSX" in file.inner_path.parts


def parse_result_file(file: ResultFile, *, task: Task = 1) -> ParsedFile:
    """Parse all good rows, and list the bad ones; escapes in image ids are undone.

    Raises:
        ValueError: when the file is not UTF-8 text.
    """
    content = file.content.removeprefix(_UTF8_MARK)
    num_values = NUM_FIELDS[task] - 1
    try:
        found = parse_text_rows(content, num_values=num_values)
        names = list(map(decode_image_id, found.names))
        image_ids = [names[index] for index in found.name_index.tolist()]
        values, lines = found.values.numpy(), found.lines.numpy()
        bad_lines = found.bad_lines.tolist()
        texts = content.splitlines() if bad_lines else []
        odd = [(line, texts[line - 1].decode("utf-8").split()) for line in bad_lines]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.where}: expected UTF-8 text, got other bytes ({error})") from error
    # What the fast parser does not take may still be a number to Python: "1_000".
    problems = []
    more: list[tuple[int, list[str]]] = []
    for line, fields in odd:
        problem = _check_fields(fields, f"{file.where}:{line}", task) if fields else None
        if problem is not None:
            problems.append(problem)
        elif fields:
            more.append((line, fields))
    if more:
        extra = np.array([list(map(float, fields[1:])) for _, fields in more])
        lines = np.concatenate([lines, [line for line, _ in more]])
        order = np.argsort(lines, kind="stable")
        image_ids += [decode_image_id(fields[0]) for _, fields in more]
        image_ids = [image_ids[row] for row in order.tolist()]
        values, lines = np.concatenate([values, extra])[order], lines[order]
    return ParsedFile(_to_detections(image_ids, values, task), lines, problems)


def _to_detections(image_ids: list[str], values: FloatArray, task: Task) -> ClassDetections:
    corners = values[:, 1:] if task == 1 else values[:, 1:][:, HBOX_CORNERS]
    quads = np.ascontiguousarray(corners).reshape(-1, 4, 2)
    return ClassDetections(image_ids, values[:, 0].copy(), quads)


def _check_fields(fields: Sequence[str], where: str, task: Task) -> LintProblem | None:
    if len(fields) != NUM_FIELDS[task]:
        message = (
            f"expected {NUM_FIELDS[task]} fields ({FIELD_NAMES[task]}), got {len(fields)}; correct "
            "the row, or write all rows again"
        )
        return LintProblem("field-count", where, message)
    for text in fields[1:]:
        try:
            value = float(text)
        except ValueError:
            message = f"expected a number, got {text!r}; correct the row"
            return LintProblem("not-a-number", where, message)
        if not math.isfinite(value):
            message = f"expected a finite number, got {text!r}; drop such detections"
            return LintProblem("non-finite", where, message)
    return None
