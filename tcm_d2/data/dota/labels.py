"""Read and write DOTA label files (``labelTxt``), versions 1.0, 1.5 and 2.0.

A file has up to two head lines, ``imagesource:...`` and ``gsd:...``, then one object a line::

    x1 y1 x2 y2 x3 y3 x4 y4 class-name [difficult]
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from tcm_d2.data.dota.classes import ClassSpelling, describe_unknown_class
from tcm_d2.files import write_bytes_atomically
from tcm_d2.structures.quads import (
    order_quads_around_center,
    quads_cross_themselves,
    signed_areas,
)

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip", "repair"]
ON_ERROR_CHOICES: tuple[str, ...] = ("raise", "skip", "repair")

# Below this a quad counts as having no area; integer corners give 0 or at least 0.5.
MIN_QUAD_AREA_PX2 = 1e-6
# Written coordinates are rounded to this many decimals: far below a pixel, no float noise.
WRITTEN_DECIMALS = 4
_MAX_EXAMPLES = 5
_HEAD_KEYS = ("imagesource", "gsd")


class LabelError(ValueError):
    """A label file says something that cannot be meant; ``kind`` groups equal complaints."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[LabelError], tuple[str, str]]:
        """Let worker processes hand the error on: pickle calls the class with these."""
        return type(self), (str(self), self.kind)


@dataclass(frozen=True)
class DotaObject:
    """One annotated object.

    Attributes:
        quad: x1, y1, ..., x4, y4 in image pixels, corners in the file's own order; corners
            outside the image are allowed (objects cut by a patch border).
        class_name: as the file writes it, e.g. ``small-vehicle``, or as `read_label` is asked.
        difficult: 0, 1 (difficult) or 2 (cut by the patch border: the mark of some split tools).
    """

    quad: tuple[float, ...]
    class_name: str
    difficult: int


@dataclass
class DotaLabel:
    """The content of one label file; ``gsd`` is metres per pixel."""

    objects: list[DotaObject] = field(default_factory=list)
    image_source: str | None = None
    gsd: float | None = None


@dataclass
class LabelProblems:
    """Complaints about skipped or repaired lines of many files, counted by kind."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, kind: str, message: str) -> None:
        """Count one complaint and keep the first few as examples."""
        self.counts[kind] += 1
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(message)

    def merge(self, other: LabelProblems) -> None:
        """Add the complaints of ``other`` to these, in place."""
        self.counts.update(other.counts)
        self.examples.extend(other.examples[: _MAX_EXAMPLES - len(self.examples)])

    def summary(self) -> str:
        """Return the counts and the first examples in a few lines; empty when there are none."""
        if not self.counts:
            return ""
        counts = ", ".join(f"{num} x {kind}" for kind, num in self.counts.most_common())
        return f"{counts}; first: " + " | ".join(self.examples)


class AllProblems(LabelProblems):
    """Keeps every complaint with its kind, where its parent keeps the first few."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[str, str]] = []

    def add(self, kind: str, message: str) -> None:
        """Count one complaint and keep it."""
        super().add(kind, message)
        self.all.append((kind, message))

    def merge(self, other: LabelProblems) -> None:
        """Add the complaints of ``other`` to these, in place."""
        super().merge(other)
        if isinstance(other, AllProblems):
            self.all += other.all


def read_label(
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    on_error: OnError = "raise",
    problems: LabelProblems | None = None,
    check_quads: bool = True,
) -> DotaLabel:
    """Read one label file.

    Args:
        path: the file; empty files and files with head lines only hold no objects.
        classes: the allowed class names, which objects then have in this spelling; None allows
            any. Blanks, ``_`` and ``-`` are equal.
        on_error: "raise" stops at the first bad line; "skip" leaves bad lines out; "repair" puts
            the corners of self-crossing quads in order around their centre and leaves out what
            else is bad.
        problems: collects what was skipped or repaired; without it, each file logs a warning.
        check_quads: False takes quads without area and self-crossing ones as they are: the official
            evaluation counts them.

    Raises:
        LabelError: (a ValueError) with ``path:line``, expected, got and what to do: wrong number
            of fields, not a finite number, unknown class, bad difficult flag, quad without area,
            self-crossing quad; or a file that is not text.
        FileNotFoundError: when there is no such file.
    """
    if on_error not in ON_ERROR_CHOICES:
        raise ValueError(f"on_error: expected one of {ON_ERROR_CHOICES}, got {on_error!r}")
    path = os.fspath(path)
    found = LabelProblems() if problems is None else problems
    num_before = sum(found.counts.values())
    label = DotaLabel()
    known = None if classes is None else ClassSpelling(classes)
    line_numbers: list[int] = []
    for line_number, line in enumerate(_read_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        if not label.objects and _read_head_line(line, label):
            continue
        try:
            label.objects.append(_parse_object(fields, known, classes))
            line_numbers.append(line_number)
        except LabelError as error:
            _complain(f"{path}:{line_number}: {error}", error.kind, on_error, found)
    if check_quads:
        _check_quads(label, line_numbers, path, on_error, found)
    num_new = sum(found.counts.values()) - num_before
    if problems is None and num_new:
        logger.warning("%s: %d bad lines: %s", path, num_new, found.summary())
    return label


def check_label(
    label: DotaLabel,
    where: str,
    classes: Sequence[str],
    *,
    on_error: OnError,
    problems: LabelProblems,
) -> None:
    """Check class names and quads of a label that comes from another format, in place.

    Args:
        where: the file, for messages; objects are named by their number from 1.
        classes, on_error, problems: see `read_label`.

    Raises:
        LabelError: (a ValueError) as `read_label` does.
    """
    known, kept, numbers = ClassSpelling(classes), [], []
    for number, obj in enumerate(label.objects, start=1):
        if (name := known.find(obj.class_name)) is not None:
            kept.append(replace(obj, class_name=name))
            numbers.append(number)
            continue
        message = describe_unknown_class(obj.class_name, classes)
        _complain(f"{where}:{number}: {message}", "unknown class", on_error, problems)
    label.objects = kept
    _check_quads(label, numbers, where, on_error, problems)


def write_label(path: str | os.PathLike[str], label: DotaLabel) -> None:
    """Write one label file atomically: readers see the old file or the whole new one."""
    write_bytes_atomically(path, format_label(label))


def format_label(label: DotaLabel) -> bytes:
    """Return the content of a label file."""
    lines = []
    if label.image_source is not None:
        lines.append(f"imagesource:{label.image_source}")
    if label.gsd is not None:
        lines.append(f"gsd:{label.gsd!r}")
    for obj in label.objects:
        # "+ 0.0" turns a rounded -0.0 into 0.0.
        numbers = " ".join(repr(round(float(v), WRITTEN_DECIMALS) + 0.0) for v in obj.quad)
        lines.append(f"{numbers} {obj.class_name} {obj.difficult}")
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def _read_lines(path: str) -> list[str]:
    try:
        # utf-8-sig drops the byte-order mark that Windows editors put in front.
        with open(path, encoding="utf-8-sig") as stream:
            return stream.read().splitlines()
    except UnicodeDecodeError as error:
        raise LabelError(
            f"{path}: expected a UTF-8 text file, got bytes that are not ({error}); is this "
            "really a label file?",
            "not a text file",
        ) from error


def _read_head_line(line: str, label: DotaLabel) -> bool:
    """Take the line into ``label`` if it is a head line; return whether it was one."""
    key, colon, value = line.strip().partition(":")
    key = key.strip().lower()
    if not colon or key not in _HEAD_KEYS:
        return False
    value = value.strip()
    if key == "imagesource":
        label.image_source = value or None
        return True
    try:
        gsd = float(value)
    except ValueError:  # "null" and "None" are common where the resolution is not known
        return True
    label.gsd = gsd if math.isfinite(gsd) else None
    return True


def _parse_object(
    fields: Sequence[str], known: ClassSpelling | None, classes: Sequence[str] | None
) -> DotaObject:
    if len(fields) not in (9, 10):
        raise LabelError(
            f"expected 9 or 10 fields (x1 y1 x2 y2 x3 y3 x4 y4 class [difficult]), got "
            f"{len(fields)}: {' '.join(fields)[:80]!r}; correct or delete the line",
            "wrong number of fields",
        )
    try:
        quad = tuple(map(float, fields[:8]))
        are_numbers = "_" not in "".join(fields[:8])  # Python alone reads 1_0 as ten
    except ValueError:
        are_numbers = False
    if not are_numbers:
        bad = next(text for text in fields[:8] if not _is_number(text))
        raise LabelError(
            f"expected 8 numbers in front of the class name, got {bad!r}; correct the line",
            "not a number",
        )
    if not all(map(math.isfinite, quad)):
        raise LabelError(
            f"expected finite coordinates, got {' '.join(fields[:8])!r}; correct the line",
            "not a finite number",
        )
    name = fields[8] if known is None else known.find(fields[8])
    if name is None:
        raise LabelError(
            f"{describe_unknown_class(fields[8], classes or ())}; correct the line or use the "
            "class list of this version of the data set",
            "unknown class",
        )
    difficult = fields[9] if len(fields) == 10 else "0"
    if not difficult.isdecimal():
        raise LabelError(
            f"expected 0, 1 or 2 as difficult flag (field 10), got {difficult!r}; correct the line",
            "bad difficult flag",
        )
    return DotaObject(quad, name, int(difficult))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _check_quads(
    label: DotaLabel,
    line_numbers: Sequence[int],
    path: str,
    on_error: OnError,
    found: LabelProblems,
) -> None:
    """Complain about quads that cross themselves or have no area; repair or drop them in place."""
    if not label.objects:
        return
    quads = np.array([obj.quad for obj in label.objects]).reshape(-1, 4, 2)
    crossing = quads_cross_themselves(quads)
    flat = ~crossing & (np.abs(signed_areas(quads)) < MIN_QUAD_AREA_PX2)
    bad = np.flatnonzero(crossing | flat)
    if not len(bad):
        return
    dropped = set()
    for index in bad.tolist():
        obj = label.objects[index]
        corners = " ".join(f"{v:g}" for v in obj.quad)
        where = f"{path}:{line_numbers[index]}: "
        if crossing[index]:
            advice = "correct the line, or read with on_error='repair' to reorder the corners"
            message = (
                f"expected corners in order around the object, got the self-crossing {corners}"
            )
            _complain(f"{where}{message}; {advice}", "self-crossing quad", on_error, found)
        else:
            advice = "correct or delete the line, or read with on_error='skip'"
            message = f"expected a quad with an area, got {corners}"
            _complain(f"{where}{message}; {advice}", "quad without area", on_error, found)
        if crossing[index] and on_error == "repair":
            quad = order_quads_around_center(quads[index : index + 1]).reshape(8).tolist()
            label.objects[index] = DotaObject(tuple(quad), obj.class_name, obj.difficult)
        else:
            dropped.add(index)
    label.objects = [obj for index, obj in enumerate(label.objects) if index not in dropped]


def _complain(message: str, kind: str, on_error: OnError, found: LabelProblems) -> None:
    if on_error == "raise":
        raise LabelError(message, kind)
    found.add(kind, message)


def list_labels(label_dir: str | os.PathLike[str]) -> dict[str, Path]:
    """Return {image id: label file} of a folder, sorted by image id.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when two files share an image id (``P1.txt`` and ``P1.TXT``).
    """
    folder = Path(label_dir)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"label folder {folder}: expected a folder with DOTA label files (*.txt), found none"
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() != ".txt" or path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in found:
            raise ValueError(
                f"{folder}: expected one label file per id, got {found[path.stem].name} and "
                f"{path.name}; remove one of them"
            )
        found[path.stem] = path
    return found
