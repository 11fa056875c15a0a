"""Result files as the DOTA server takes them: read and write ``Task1_<class>.txt``, and the zip."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tcm_d2.evaluation.files.escapes import encode_image_id
from tcm_d2.evaluation.files.rows import (
    Task,
    class_of_file,
    is_shadow,
    looks_like_patch_name,
    parse_result_file,
    read_result_files,
    result_file_name,
)
from tcm_d2.files import write_bytes_atomically
from tcm_d2.structures.arrays import FloatArray
from tcm_d2.structures.detections import ClassDetections, no_rows

__all__ = [
    "ClassDetections",
    "looks_like_patch_name",
    "read_results",
    "read_task1",
    "write_results",
    "write_submission",
    "write_task1",
    "write_task1_zip",
    "write_zip",
]

# 0.01 px; the server limits the size of a submission.
COORDINATE_FORMAT = "%.2f"
# Nine significant digits tell all float32 scores apart: no ties that the model did not make.
SCORE_FORMAT = "%.9g"
# Rows of numbers hardly repeat: a higher level takes eight times as long for 11% less.
_ZIP_LEVEL = 1


def write_task1(
    output_dir: str | Path, detections: Mapping[str, ClassDetections], *, classes: Sequence[str]
) -> list[Path]:
    """Write ``Task1_<class>.txt`` files, see ``write_results``."""
    return write_results(output_dir, detections, classes=classes, task=1)


def write_results(
    output_dir: str | Path,
    detections: Mapping[str, ClassDetections],
    *,
    classes: Sequence[str],
    task: Task,
) -> list[Path]:
    """Write one file per class, each atomically; classes without rows get an empty file.

    White space in image ids is written with escapes, see ``image_ids``.

    Args:
        output_dir: made where missing.
        detections: rows by class name; a class may be absent.
        classes: the files to write, in this order.
        task: 1 writes the corners, 2 their upright bounds.

    Raises:
        ValueError: when ``detections`` holds a class that is not in ``classes``, numbers that are
            not finite, or image ids that are empty.
    """
    contents = _format_files(detections, classes, task)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in contents.items():
        write_bytes_atomically(folder / name, content)
        paths.append(folder / name)
    return paths


def write_submission(
    output_dir: str | Path,
    detections: Mapping[str, ClassDetections],
    *,
    classes: Sequence[str],
    task: Task = 1,
) -> Path:
    """Write result files to ``Task<task>/`` and pack ``Task<task>.zip``; return the zip's path.

    An old zip is removed first and the new one written last, so that where there is a zip, it holds
    the files beside it, also after an interrupted run. Old result files of other classes are
    removed.

    Raises:
        ValueError: as ``write_results``; nothing is touched before the rows are checked.
    """
    folder, zip_path = Path(output_dir) / f"Task{task}", Path(output_dir) / f"Task{task}.zip"
    contents = _format_files(detections, classes, task)
    folder.mkdir(parents=True, exist_ok=True)
    zip_path.unlink(missing_ok=True)
    for old in folder.iterdir():
        if class_of_file(old.name, task=task) is not None and old.name not in contents:
            old.unlink()
    for name, content in contents.items():
        write_bytes_atomically(folder / name, content)
    write_bytes_atomically(zip_path, _pack_zip(dict(sorted(contents.items()))))
    return zip_path


def write_task1_zip(zip_path: str | Path, files: Iterable[str | Path]) -> Path:
    """Pack result files, see ``write_zip``."""
    return write_zip(zip_path, files)


def write_zip(zip_path: str | Path, files: Iterable[str | Path]) -> Path:
    """Pack result files into a zip without folders, atomically, and return its path."""
    paths = sorted(Path(file) for file in files)
    archive = _pack_zip({path.name: path.read_bytes() for path in paths})
    target = Path(zip_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(target, archive)
    return target


def read_task1(path: str | Path) -> dict[str, ClassDetections]:
    """Read all ``Task1_<class>.txt`` files, see ``read_results``."""
    return read_results(path, task=1)


def read_results(path: str | Path, *, task: Task) -> dict[str, ClassDetections]:
    """Read all ``Task<task>_<class>.txt`` of a folder or a zip (there in any one folder).

    Windows line ends, blank lines, any white space between fields, scores such as 1e-05 and whole
    numbers are taken. The class names come from the file names; other files are left alone.

    Returns:
        Rows by class name, sorted by class name; upright boxes (task 2) as quads.

    Raises:
        FileNotFoundError: when ``path`` does not exist.
        ValueError: with ``file:line`` on a wrong number of fields, a field that is not a number, or
            one that is not finite; when there are no such files, two for one class, a file that is
            not text, or a broken zip.
    """
    results: dict[str, ClassDetections] = {}
    where: dict[str, str] = {}
    for file in read_result_files(path):
        name = class_of_file(file.inner_path.name, task=task)
        if name is None or is_shadow(file):
            continue
        if name in results:
            raise ValueError(
                f"{file.where}: a second file for class {name!r}, after {where[name]}; keep one"
            )
        parsed = parse_result_file(file, task=task)
        if parsed.problems:
            raise ValueError(f"{parsed.problems[0].where}: {parsed.problems[0].message}")
        results[name], where[name] = parsed.rows, file.where
    if not results:
        raise ValueError(
            f"{path}: expected files named Task{task}_<class>.txt (for example "
            f"Task{task}_plane.txt), found none; give the folder or zip that holds them"
        )
    return dict(sorted(results.items()))


def _pack_zip(contents: Mapping[str, bytes]) -> bytes:
    """Return a zip of the given files, in this order; equal contents give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name)  # with the date 1980-01-01
            entry.create_system = 3  # Unix, for the permissions
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, _ZIP_LEVEL)
    return buffer.getvalue()


def _format_files(
    detections: Mapping[str, ClassDetections], classes: Sequence[str], task: Task
) -> dict[str, bytes]:
    """Return the content of each file by name."""
    unknown = sorted(set(detections) - set(classes))
    if unknown:
        raise ValueError(f"detections: unknown classes {unknown}; known: {', '.join(classes)}")
    return {
        result_file_name(name, task=task): _format_rows(name, detections.get(name, no_rows()), task)
        for name in classes
    }


def _format_rows(class_name: str, rows: ClassDetections, task: Task) -> bytes:
    finite = np.isfinite(rows.scores) & np.isfinite(rows.quads).all(axis=(1, 2))
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise ValueError(
            f"detections of class {class_name!r}, row {row} (image {rows.image_ids[row]}): "
            "expected finite numbers, got NaN or infinity; drop such rows before writing"
        )
    try:
        word_of = {name: encode_image_id(name) for name in set(rows.image_ids)}
    except ValueError as error:
        raise ValueError(f"detections of class {class_name!r}: {error}") from None
    names = [word_of[name] for name in rows.image_ids]
    values = _to_values(rows.quads, task)
    row_format = f"%s {SCORE_FORMAT}" + f" {COORDINATE_FORMAT}" * values.shape[1] + "\n"
    columns = zip(names, rows.scores.tolist(), *values.T.tolist(), strict=True)
    return "".join(map(row_format.__mod__, columns)).encode()


def _to_values(quads: FloatArray, task: Task) -> FloatArray:
    quads = np.array(quads, np.float64)
    if task == 1:
        return quads.reshape(-1, 8)
    return np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
