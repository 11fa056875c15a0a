"""Find what the DOTA server would reject in a submission, or silently score badly.

Every problem names its rule, ``file:line``, what is wrong and what to do. One row stands for all of
its kind in a file, with their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tcm_d2.evaluation.files.escapes import match_image_id
from tcm_d2.evaluation.files.rows import (
    LintProblem,
    ParsedFile,
    ResultFile,
    Task,
    class_of_file,
    is_shadow,
    looks_like_patch_name,
    parse_result_file,
    read_result_files,
    result_file_name,
)
from tcm_d2.messages import near_match_hint
from tcm_d2.structures.arrays import FloatArray
from tcm_d2.structures.quads import signed_areas

# Below this a written quad has no area: corners carry two decimals.
_MIN_AREA_PX2 = 1e-3


def lint_task1(
    path: str | Path, *, classes: Sequence[str], image_ids: Iterable[str] | None = None
) -> list[LintProblem]:
    """List the problems of Task 1 files, see ``lint_results``."""
    return lint_results(path, classes=classes, image_ids=image_ids, task=1)


def lint_results(
    path: str | Path,
    *,
    classes: Sequence[str],
    task: Task,
    image_ids: Iterable[str] | None = None,
) -> list[LintProblem]:
    """List what the DOTA server would reject or silently score badly in a folder or zip.

    Args:
        path: folder or zip with result files.
        classes: the classes of the task.
        task: 1 for oriented boxes, 2 for upright ones.
        image_ids: the images of the task; None leaves out the rule unknown-image.

    Returns:
        Problems by file in the order of their names, then missing classes; see ``RULES``.

    Raises:
        FileNotFoundError, ValueError: when there is no such folder or zip, or a broken zip.
    """
    problems: list[LintProblem] = []
    known = None if image_ids is None else set(image_ids)
    seen: dict[str, str] = {}
    num_rows = 0
    for file in read_result_files(path):
        problems += _check_place(file, task)
        name = class_of_file(file.inner_path.name, task=task)
        if name is None or is_shadow(file):
            continue
        if name in seen:
            message = f"a second file for class {name!r}, after {seen[name]}; keep one"
            problems.append(LintProblem("duplicate-class", file.where, message))
            continue
        seen[name] = file.where
        if name not in classes:
            problems.append(LintProblem("unknown-class", file.where, _unknown_class(name, classes)))
        try:
            parsed = parse_result_file(file, task=task)
        except ValueError as error:
            message = str(error).removeprefix(f"{file.where}: ")
            problems.append(LintProblem("not-text", file.where, f"{message}; write it again"))
            continue
        num_rows += len(parsed.lines) + len(parsed.problems)
        if not len(parsed.lines) and not parsed.problems:
            message = (
                "no rows: the devkit's evaluation stops at such a file with an IndexError (tools "
                "here give AP 0); fine where the class was not found in any image"
            )
            problems.append(LintProblem("empty-file", file.where, message, is_note=True))
        problems += _first_of_each(parsed.problems)
        problems += _check_rows(file.where, parsed, known, task)
    problems += _check_missing(str(path), seen, classes, task)
    if seen and not num_rows and all(problem.is_note for problem in problems):
        message = "expected detections, got empty files only; were the results written?"
        problems.append(LintProblem("no-rows", str(path), message))
    return problems


def _check_place(file: ResultFile, task: Task) -> list[LintProblem]:
    if is_shadow(file):
        message = "a file that macOS adds to zips; pack without it, for example by write_zip"
        return [LintProblem("extra-file", file.where, message)]
    problems = []
    if class_of_file(file.inner_path.name, task=task) is None:
        message = (
            f"expected a name like {result_file_name('<class>', task=task)}, got "
            f"{file.inner_path.name!r}; rename or leave out the file"
        )
        problems.append(LintProblem("file-name", file.where, message))
    if len(file.inner_path.parts) > 1:
        message = (
            f"expected the files at the top of the zip, got folder "
            f"{str(file.inner_path.parent)!r}; pack the files without their folder"
        )
        problems.append(LintProblem("nested-folder", file.where, message))
    return problems


def _unknown_class(name: str, classes: Sequence[str]) -> str:
    return f"unknown class {name!r}{near_match_hint(name, classes)}; known: {', '.join(classes)}"


def _check_missing(
    where: str, seen: dict[str, str], classes: Sequence[str], task: Task
) -> list[LintProblem]:
    return [
        LintProblem(
            "missing-class",
            where,
            f"expected {result_file_name(name, task=task)}, got none; add it, an empty file will "
            "do",
        )
        for name in classes
        if name not in seen
    ]


def _first_of_each(problems: Sequence[LintProblem]) -> list[LintProblem]:
    """Keep the first problem of each rule, with the number of those after it."""
    counts = Counter(problem.rule for problem in problems)
    firsts: dict[str, LintProblem] = {}
    for problem in problems:
        firsts.setdefault(problem.rule, problem)
    return [
        problem._replace(message=f"{problem.message} ({counts[rule]} such rows)")
        if counts[rule] > 1
        else problem
        for rule, problem in firsts.items()
    ]


def _check_rows(
    where: str, parsed: ParsedFile, known: set[str] | None, task: Task
) -> list[LintProblem]:
    rows = parsed.rows
    distinct = list(dict.fromkeys(rows.image_ids))
    unknown = {i for i in distinct if known is not None and match_image_id(i, known) not in known}
    patches = {i for i in distinct if (known is None or i in unknown) and looks_like_patch_name(i)}
    unknown -= patches
    flat = np.abs(signed_areas(rows.quads)) < _MIN_AREA_PX2
    if task == 2:
        flat |= ~(rows.quads[:, 2] > rows.quads[:, 0]).all(axis=1)
    checks = {
        "patch-name": (
            _is_in(rows.image_ids, patches),
            f"{len(patches)} patches instead of images; merge them first: tcm-d2 merge",
        ),
        "unknown-image": (
            _is_in(rows.image_ids, unknown),
            f"{len(unknown)} images that are not in the image list; correct the names or the list",
        ),
        "degenerate-quad": (
            flat,
            "boxes without area match nothing; drop them"
            if task == 1
            else "expected x1 < x2 and y1 < y2; drop such boxes, or sort their corners",
        ),
        "non-convex-quad": (
            ~flat & ~_is_convex(rows.quads),
            "corners must go round a convex box; put them in order, or write the smallest "
            "rectangle around them",
        ),
    }
    return [
        _row_problem(rule, where, parsed, bad, message)
        for rule, (bad, message) in checks.items()
        if bad.any()
    ]


def _row_problem(
    rule: str, where: str, parsed: ParsedFile, bad: NDArray[np.bool_], message: str
) -> LintProblem:
    row = int(np.flatnonzero(bad)[0])
    corners = " ".join(f"{value:g}" for value in parsed.rows.quads[row].reshape(8))
    return LintProblem(
        rule,
        f"{where}:{parsed.lines[row]}",
        f"{int(bad.sum())} rows: {message}; here: {parsed.rows.image_ids[row]} {corners}",
    )


def _is_in(image_ids: Sequence[str], wanted: set[str]) -> NDArray[np.bool_]:
    if not wanted:
        return np.zeros(len(image_ids), dtype=bool)
    return np.fromiter(map(wanted.__contains__, image_ids), bool, len(image_ids))


def _is_convex(quads: FloatArray) -> NDArray[np.bool_]:
    """Return (N,) bool: all turns go the same way (self-crossing quads do not)."""
    edge = np.roll(quads, -1, axis=1) - quads
    after = np.roll(edge, -1, axis=1)
    turn = edge[..., 0] * after[..., 1] - edge[..., 1] * after[..., 0]  # (N, 4)
    return np.asarray((turn >= 0).all(axis=1) | (turn <= 0).all(axis=1))
