"""Task1 result files: one ``Task1_<class>.txt`` per class, and the zip the DOTA server takes.

A row is ``image_id score x1 y1 x2 y2 x3 y3 x4 y4``, corners in pixels of the whole image.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from tcm_d2.data.dota.labels import write_bytes_atomically
from tcm_d2.evaluation.quad_iou import FloatArray, signed_area

NUM_FIELDS = 10
# 0.01 px; the server limits the size of a submission.
COORDINATE_DECIMALS = 2
# Nine significant digits tell all float32 scores apart: no ties that the model did not make.
SCORE_FORMAT = "%.9g"
# Below this a written quad has no area: corners carry two decimals.
_MIN_AREA_PX2 = 1e-3
# A fixed time stamp: equal results give equal zip files.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_FILE_NAME = re.compile(r"Task1_(?P<class_name>.+)\.txt")
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


class _TextFile(NamedTuple):
    where: str
    text: str


def no_detections() -> ClassDetections:
    """Return zero rows."""
    return ClassDetections([], np.empty(0, np.float64), np.empty((0, 4, 2), np.float64))


def looks_like_patch_name(image_id: str) -> bool:
    """Say whether ``image_id`` is the name of a patch, such as ``P0000__1024__0___824``."""
    return _PATCH_NAME.fullmatch(image_id) is not None


def task1_file_name(class_name: str) -> str:
    """Return the file name the server expects for a class."""
    return f"Task1_{class_name}.txt"


def write_task1(
    output_dir: str | Path, detections: Mapping[str, ClassDetections], *, classes: Sequence[str]
) -> list[Path]:
    """Write one file per class, each atomically; classes without rows get an empty file.

    Args:
        output_dir: made where missing.
        detections: rows by class name; a class may be absent.
        classes: the files to write, in this order.

    Raises:
        ValueError: when ``detections`` holds a class that is not in ``classes``, or numbers that
            are not finite.
    """
    unknown = sorted(set(detections) - set(classes))
    if unknown:
        raise ValueError(f"detections: unknown classes {unknown}; known: {', '.join(classes)}")
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for class_name in classes:
        rows = detections.get(class_name, no_detections())
        path = folder / task1_file_name(class_name)
        write_bytes_atomically(path, _format_rows(class_name, rows).encode("utf-8"))
        paths.append(path)
    return paths


def write_task1_zip(zip_path: str | Path, files: Iterable[str | Path]) -> Path:
    """Pack result files into a zip without folders, atomically, and return its path."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(Path(file) for file in files):
            entry = zipfile.ZipInfo(path.name, _ZIP_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    target = Path(zip_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(target, buffer.getvalue())
    return target


def read_task1(path: str | Path) -> dict[str, ClassDetections]:
    """Read all ``Task1_<class>.txt`` of a folder or a zip (there in any one folder).

    Windows line ends, blank lines, any white space between fields, scores such as 1e-05 and whole
    numbers are taken. The class names come from the file names.

    Raises:
        FileNotFoundError: when ``path`` does not exist.
        ValueError: with ``file:line`` on a wrong number of fields, a field that is not a number, or
            one that is not finite; when there are no Task1 files, two for one class, or a broken
            zip.
    """
    results = {}
    for class_name, file in _read_task1_texts(Path(path)).items():
        rows, problems = _parse_rows(file)
        if problems:
            raise ValueError(f"{problems[0].where}: {problems[0].message}")
        results[class_name] = rows
    return results


def lint_task1(
    path: str | Path, *, classes: Sequence[str], image_ids: Iterable[str] | None = None
) -> list[LintProblem]:
    """List what the DOTA server would reject or silently score badly in a folder or zip.

    Rules: missing-class, unknown-class, field-count, not-a-number, non-finite, patch-name,
    unknown-image, degenerate-quad, non-convex-quad. Rows are reported in file order; of the last
    four rules one row per file stands for all, with their number.

    Args:
        path: folder or zip with Task1 files.
        classes: the classes of the task.
        image_ids: the images of the task; None leaves out the rule unknown-image.

    Raises:
        FileNotFoundError, ValueError: when there is nothing to read, as in ``read_task1``.
    """
    problems = []
    texts = _read_task1_texts(Path(path))
    for name in classes:
        if name not in texts:
            message = f"expected {task1_file_name(name)} (an empty file will do), got none"
            problems.append(LintProblem("missing-class", str(path), message))
    known = None if image_ids is None else set(image_ids)
    for name, file in texts.items():
        if name not in classes:
            message = f"unknown class {name!r}; known: {', '.join(classes)}"
            problems.append(LintProblem("unknown-class", file.where, message))
        rows, row_problems = _parse_rows(file)
        problems += row_problems
        problems += _lint_rows(file.where, rows, known)
    return problems


def _lint_rows(where: str, rows: ClassDetections, known: set[str] | None) -> list[LintProblem]:
    bad_ids: dict[str, list[str]] = {"patch-name": [], "unknown-image": []}
    for image_id in dict.fromkeys(rows.image_ids):
        if known is not None and image_id in known:
            continue
        if looks_like_patch_name(image_id):
            bad_ids["patch-name"].append(image_id)
        elif known is not None:
            bad_ids["unknown-image"].append(image_id)
    advice = {
        "patch-name": "name patches, not images: merge them first",
        "unknown-image": "are not in the image list",
    }
    problems = [
        LintProblem(rule, where, f"{len(ids)} image ids {advice[rule]}; first: {ids[0]}")
        for rule, ids in bad_ids.items()
        if ids
    ]
    flat = np.abs(signed_area(rows.quads)) < _MIN_AREA_PX2
    for rule, bad in (
        ("degenerate-quad", flat),
        ("non-convex-quad", ~flat & ~_is_convex(rows.quads)),
    ):
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            corners = " ".join(f"{v:g}" for v in rows.quads[first].reshape(8))
            message = f"{int(bad.sum())} rows; first: {rows.image_ids[first]} {corners}"
            problems.append(LintProblem(rule, where, message))
    return problems


def _is_convex(quads: FloatArray) -> np.ndarray:
    """Return (N,) bool: all turns go the same way (self-crossing quads do not)."""
    edge = np.roll(quads, -1, axis=1) - quads
    after = np.roll(edge, -1, axis=1)
    turn = edge[..., 0] * after[..., 1] - edge[..., 1] * after[..., 0]  # (N, 4)
    return np.asarray((turn >= 0).all(axis=1) | (turn <= 0).all(axis=1))


def _format_rows(class_name: str, rows: ClassDetections) -> str:
    finite = np.isfinite(rows.scores) & np.isfinite(rows.quads).all(axis=(1, 2))
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise ValueError(
            f"detections of class {class_name!r}, row {row} (image {rows.image_ids[row]}): "
            "expected finite numbers, got NaN or infinity; drop such rows before writing"
        )
    row_format = f"%s {SCORE_FORMAT}" + f" %.{COORDINATE_DECIMALS}f" * 8
    numbers = rows.quads.reshape(-1, 8).tolist()
    return "".join(
        f"{row_format % (image_id, score, *quad)}\n"
        for image_id, score, quad in zip(rows.image_ids, rows.scores.tolist(), numbers)
    )


def _read_task1_texts(path: Path) -> dict[str, _TextFile]:
    """Return the text of each Task1 file by class name, sorted by class name."""
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        contents = [(str(file), file.name, file.read_bytes()) for file in files]
    elif path.is_file():
        contents = _read_zip(path)
    else:
        raise FileNotFoundError(f"{path}: expected a folder or a zip with Task1_<class>.txt files")
    texts: dict[str, _TextFile] = {}
    for where, file_name, content in contents:
        match = _FILE_NAME.fullmatch(file_name)
        if match is None:
            continue
        class_name = match["class_name"]
        if class_name in texts:
            raise ValueError(
                f"{where}: a second file for class {class_name!r}, after "
                f"{texts[class_name].where}; keep one"
            )
        try:
            texts[class_name] = _TextFile(where, content.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: expected UTF-8 text, got other bytes ({error})") from error
    if not texts:
        raise ValueError(
            f"{path}: expected files named Task1_<class>.txt (for example Task1_plane.txt), found "
            "none; give the folder or zip that holds them"
        )
    return dict(sorted(texts.items()))


def _read_zip(path: Path) -> list[tuple[str, str, bytes]]:
    """Return (where, file name, content) of the text files in a zip, without macOS's shadows."""
    contents = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                inner = PurePosixPath(name)
                if inner.suffix == ".txt" and "__MACOSX" not in inner.parts:
                    contents.append((f"{path}/{name}", inner.name, archive.read(name)))
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"{path}: expected a zip that can be read, got {error}; pack or download it again"
        ) from error
    return contents


def _parse_rows(file: _TextFile) -> tuple[ClassDetections, list[LintProblem]]:
    """Parse all good rows, and list the bad ones."""
    lines = [line.split() for line in file.text.splitlines()]
    rows = [fields for fields in lines if fields]
    if not rows:
        return no_detections(), []
    if all(len(fields) == NUM_FIELDS for fields in rows):
        try:
            values = _to_numbers(rows)
        except ValueError:
            pass
        else:
            if np.isfinite(values).all():
                return _to_detections(rows, values), []
    good = []
    problems = []
    for line_number, fields in enumerate(lines, start=1):
        problem = _check_fields(fields, f"{file.where}:{line_number}") if fields else None
        if problem is not None:
            problems.append(problem)
        elif fields:
            good.append(fields)
    if not good:
        return no_detections(), problems
    return _to_detections(good, _to_numbers(good)), problems


def _to_numbers(rows: list[list[str]]) -> FloatArray:
    """Return (D, 9) float64: score and corners."""
    texts = chain.from_iterable(fields[1:] for fields in rows)
    numbers = np.fromiter(map(float, texts), np.float64, (NUM_FIELDS - 1) * len(rows))
    return numbers.reshape(-1, NUM_FIELDS - 1)


def _to_detections(rows: list[list[str]], values: FloatArray) -> ClassDetections:
    quads = np.ascontiguousarray(values[:, 1:]).reshape(-1, 4, 2)
    return ClassDetections([fields[0] for fields in rows], values[:, 0].copy(), quads)


def _check_fields(fields: list[str], where: str) -> LintProblem | None:
    if len(fields) != NUM_FIELDS:
        message = (
            f"expected {NUM_FIELDS} fields (image_id score x1 y1 x2 y2 x3 y3 x4 y4), got "
            f"{len(fields)}"
        )
        return LintProblem("field-count", where, message)
    for text in fields[1:]:
        try:
            value = float(text)
        except ValueError:
            return LintProblem("not-a-number", where, f"expected a number, got {text!r}")
        if not math.isfinite(value):
            return LintProblem("non-finite", where, f"expected a finite number, got {text!r}")
    return None
