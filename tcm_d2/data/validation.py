"""Look for what is wrong in a data set of DOTA's format: files, class names, objects."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from tcm_d2.data.dota.labels import (
    AllProblems,
    DotaObject,
    LabelError,
    list_labels,
    read_label,
)
from tcm_d2.data.dota.windows import quads_window_iof
from tcm_d2.data.formats.content import FileContent
from tcm_d2.data.formats.contract import detect_format
from tcm_d2.data.formats.reading import ReadSummary
from tcm_d2.data.images import BadImageError, list_images, read_head, read_image
from tcm_d2.data.raster_reader.orientation import UPRIGHT
from tcm_d2.data.workers import image_pool
from tcm_d2.structures.quads import signed_areas

Severity = Literal["error", "warning"]

# Objects of which less than this share lies in the image are reported.
MIN_INSIDE = 0.5
# Corners of two objects that lie this near make them one object, written twice.
SAME_CORNER_PX = 1.0
# No detector finds objects with a shorter side.
MIN_SIDE_PX = 2.0
# Images that folders of images are not searched for.
UNREAD_IMAGE_SUFFIXES = (".gif", ".jfif", ".heic", ".avif", ".dng", ".j2k", ".ntf", ".vrt")
# In so many objects, one at least is turned; and what rounding makes of an upright edge.
MIN_TURNED_OF = 20
WRITTEN_ROUNDING_PX = 1e-3
_NUM_CORNERS = 4
_PERCENTILES = (0, 5, 50, 95, 100)


class Finding(NamedTuple):
    """One complaint: how bad, what kind, which file (and line or object), and a sentence."""

    severity: Severity
    kind: str
    where: str
    message: str


class ImageTask(NamedTuple):
    """One image with its label file; either may be missing."""

    image_id: str
    image_path: Path | None
    label_path: Path | None


@dataclass
class ImageFacts:
    """What is known about one image: its size (None: unreadable), objects and findings.

    ``sides_px`` is (M, 2): long and short side of the smallest rectangle around each object.
    """

    image_id: str
    size_hw: tuple[int, int] | None
    objects: list[DotaObject]
    sides_px: np.ndarray
    findings: list[Finding]


@dataclass
class ValidationReport:
    """Findings, statistics, and the objects that could be read, by image id."""

    findings: list[Finding] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    objects: dict[str, list[DotaObject]] = field(default_factory=dict)

    @property
    def num_errors(self) -> int:
        """Findings that make training or scoring wrong."""
        return sum(finding.severity == "error" for finding in self.findings)

    def counts(self) -> Counter[tuple[Severity, str]]:
        """Return the number of findings by severity and kind, errors first."""
        ordered = sorted(self.findings, key=lambda finding: (finding.severity, finding.kind))
        return Counter((finding.severity, finding.kind) for finding in ordered)


def validate_dataset(
    image_dir: str | os.PathLike[str],
    label_dir: str | os.PathLike[str],
    classes: Sequence[str] | None,
    *,
    decode_images: bool,
    num_workers: int,
    wrap_progress: Callable[[Iterable[ImageFacts], int], Iterable[ImageFacts]] | None = None,
) -> ValidationReport:
    """Check all images and labels of two folders.

    Args:
        classes: the allowed class names; None takes those that occur.
        decode_images: read all pixels, which finds damaged files; False reads the heads only.
        num_workers: processes; 1 works in this process.
        wrap_progress: gets (facts of the images, their number), returns them; for a progress bar.

    Raises:
        FileNotFoundError, ValueError: a folder is missing, or holds two images of one id.
    """
    images, labels = list_images(image_dir), list_labels(label_dir)
    tasks = [
        ImageTask(image_id, images.get(image_id), labels.get(image_id))
        for image_id in sorted(images.keys() | labels.keys())
    ]
    report = ValidationReport()
    work = partial(check_image, classes=classes, decode=decode_images)
    facts: Iterable[ImageFacts] = _map(work, tasks, num_workers)
    everything = list(wrap_progress(facts, len(tasks)) if wrap_progress else facts)
    for item in everything:
        report.findings += item.findings
        report.objects[item.image_id] = item.objects
    report.findings += _folder_findings(Path(image_dir), Path(label_dir))
    report.findings += _rotation_findings(everything, os.fspath(label_dir))
    report.statistics = _statistics(everything, classes)
    counts = report.statistics["objects per class"]
    for name in (name for name in classes or () if not counts.get(name)):
        message = "no object of this class; it cannot be learned or scored"
        report.findings.append(Finding("warning", "class without objects", name, message))
    return report


def foreign_findings(read: ReadSummary, where: str) -> list[Finding]:
    """Return what was found while annotations of another format were read with ``keep_all``."""
    findings = []
    for severity, problems in (("error", read.left_out), ("warning", read.repaired)):
        assert isinstance(problems, AllProblems)
        findings += [
            Finding(severity, kind, message.split(": ")[0], message)  # type: ignore[arg-type]
            for kind, message in problems.all
        ]
    for kind, text in (
        ("upright", "have no angle in the file and are taken as upright"),
        ("fitted", "are polygons or masks of another form; a rectangle is fitted to them"),
    ):
        if read.kinds[kind]:
            message = f"{read.kinds[kind]} of {read.num_objects} objects {text}"
            findings.append(Finding("warning", f"{kind} boxes", where, message))
    return findings


def check_image(task: ImageTask, *, classes: Sequence[str] | None, decode: bool) -> ImageFacts:
    """Check one image and its label file; nothing is raised for what is wrong in them."""
    findings: list[Finding] = []
    size_hw = None
    if task.image_path is None:
        message = "there is a label file and no image of that name; add the image or delete it"
        findings.append(Finding("error", "label without image", str(task.label_path), message))
    else:
        try:
            size_hw, orientation = read_head(task.image_path)
            if orientation != UPRIGHT:
                message = (
                    f"its EXIF orientation ({orientation}) is not applied: labels are taken in the "
                    "frame of the stored pixels; if they were made on the picture as viewers turn "
                    "it, convert them with the images, or save the images turned"
                )
                where = str(task.image_path)
                findings.append(Finding("warning", "EXIF orientation", where, message))
            if decode:
                size_hw = read_image(task.image_path, channel_order="BGR").shape[:2]
        except (BadImageError, OSError) as error:
            kind, where = "unreadable image", str(task.image_path)
            findings.append(Finding("error", kind, where, str(error)))
    objects: list[DotaObject] = []
    if task.label_path is None:
        message = "no label file of that name; an image without objects needs an empty one"
        findings.append(Finding("error", "image without label", str(task.image_path), message))
    else:
        problems = AllProblems()
        try:
            objects = read_label(
                task.label_path, classes=classes, on_error="skip", problems=problems
            ).objects
        except LabelError as error:
            problems.add(error.kind, str(error))
        findings += _label_findings(task.label_path, objects, problems)
    quads = np.array([obj.quad for obj in objects], dtype=np.float64).reshape(-1, _NUM_CORNERS, 2)
    sides_px = _sides_px(quads)
    findings += _check_objects(objects, quads, sides_px, size_hw, str(task.label_path))
    return ImageFacts(task.image_id, size_hw, objects, sides_px, findings)


def _label_findings(
    path: Path, objects: Sequence[DotaObject], problems: AllProblems
) -> list[Finding]:
    """Return the complaints about a label file, or one about a file of another format."""
    if problems.all and not objects:
        try:
            found = detect_format(FileContent(path))
        except LabelError:
            found = None
        if found is not None and found.name != "dota":
            message = (
                f"it looks like {found.title}; convert it with tcm-d2 convert-annotations "
                f"--format {found.name}"
            )
            return [Finding("error", "label file of another format", str(path), message)]
    return [
        Finding("error", kind, message.split(": ")[0], message) for kind, message in problems.all
    ]


def _folder_findings(image_dir: Path, label_dir: Path) -> Iterator[Finding]:
    """Yield a finding for each file that is left out because of its suffix."""
    unread = [p for p in sorted(image_dir.iterdir()) if p.suffix.lower() in UNREAD_IMAGE_SUFFIXES]
    unread += [p for p in sorted(label_dir.iterdir()) if p.suffix.lower() != ".txt"]
    for path in unread:
        if path.is_file() and not path.name.startswith("."):
            message = f"files named *{path.suffix} are not read here; convert or remove it"
            yield Finding("warning", "file that is not read", str(path), message)


def _rotation_findings(facts: Sequence[ImageFacts], where: str) -> Iterator[Finding]:
    """Yield a finding where no object of a data set is turned."""
    quads = [np.array(obj.quad).reshape(_NUM_CORNERS, 2) for item in facts for obj in item.objects]
    if len(quads) < MIN_TURNED_OF:
        return
    edges = np.abs(np.roll(quads, -1, axis=1) - quads)
    if (edges.min(axis=2) <= WRITTEN_ROUNDING_PX).all():
        message = (
            f"none of {len(quads)} objects is turned; was the rotation lost in a conversion? "
            "tcm-d2 convert-annotations --strict refuses upright boxes"
        )
        yield Finding("warning", "no turned object", where, message)


def _check_objects(
    objects: Sequence[DotaObject],
    quads: np.ndarray,
    sides_px: np.ndarray,
    size_hw: tuple[int, int] | None,
    where: str,
) -> Iterator[Finding]:
    if not objects:
        return

    def name(index: int) -> str:
        x, y = quads[index].mean(axis=0)
        return f"{objects[index].class_name} at ({x:.0f}, {y:.0f})"

    if size_hw is not None:
        height, width = size_hw
        inside = quads_window_iof(quads, np.array([[0, 0, width, height]]))[:, 0]
        for index in np.flatnonzero(inside < MIN_INSIDE).tolist():
            severity: Severity = "error" if inside[index] == 0 else "warning"
            kind = "object outside the image" if inside[index] == 0 else "object mostly outside"
            message = (
                f"{name(index)}: {inside[index]:.0%} of it lies in the image of {width} x {height} "
                "px; do the labels belong to an image of another size?"
            )
            yield Finding(severity, kind, where, message)
    for first, second in _same_objects(quads):
        same_class = objects[first].class_name == objects[second].class_name
        kind = "duplicate object" if same_class else "one object, two classes"
        message = f"{name(first)} is also there as {name(second)}; delete one of them"
        yield Finding("error" if same_class else "warning", kind, where, message)
    for index in np.flatnonzero(sides_px[:, 1] < MIN_SIDE_PX).tolist():
        long_px, short_px = sides_px[index]
        message = f"{name(index)}: {long_px:.1f} x {short_px:.1f} px, too small to be found"
        yield Finding("warning", "tiny object", where, message)
    turn = np.sign(_corner_turns(quads))
    for index in np.flatnonzero((turn.max(axis=1) > 0) & (turn.min(axis=1) < 0)).tolist():
        message = f"{name(index)}: a corner points inwards; the box around it is larger than it"
        yield Finding("warning", "quad that is not convex", where, message)


def _same_objects(quads: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield pairs (earlier, later) whose corners are the same, in any order of the corners."""
    centers = quads.mean(axis=1)
    order = np.argsort(centers[:, 0], kind="stable")
    ordered = centers[order, 0]
    last = np.searchsorted(ordered, ordered + SAME_CORNER_PX, side="right")
    for position, index in enumerate(order.tolist()):
        near = order[position + 1 : last[position]]
        near = near[np.abs(centers[near, 1] - centers[index, 1]) <= SAME_CORNER_PX]
        for other in near.tolist():
            distance = np.abs(quads[index][:, None] - quads[other][None]).max(axis=2)  # (4, 4)
            if (distance.min(axis=0) <= SAME_CORNER_PX).all() and (
                distance.min(axis=1) <= SAME_CORNER_PX
            ).all():
                yield min(index, other), max(index, other)


def _corner_turns(quads: np.ndarray) -> np.ndarray:
    """Return (M, 4): twice the signed area of each corner with its two neighbours."""
    before, after = np.roll(quads, 1, axis=1), np.roll(quads, -1, axis=1)
    a, b = quads - before, after - quads
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])


def _sides_px(quads: np.ndarray) -> np.ndarray:
    """Return (M, 2) long and short sides of the smallest rectangles around quads."""
    sides = [sorted(cv2.minAreaRect(quad.astype(np.float32))[1], reverse=True) for quad in quads]
    return np.array(sides, dtype=np.float64).reshape(-1, 2)


def _statistics(facts: Sequence[ImageFacts], classes: Sequence[str] | None) -> dict[str, Any]:
    names = [obj.class_name for item in facts for obj in item.objects]
    sides = np.concatenate([item.sides_px for item in facts] or [np.zeros((0, 2))])
    counts = Counter(names)
    order = list(classes or sorted(counts))
    labels = np.array(names)
    sizes = np.array([item.size_hw for item in facts if item.size_hw is not None]).reshape(-1, 2)
    areas = [
        abs(float(signed_areas(np.array(obj.quad).reshape(4, 2))))
        for item in facts
        for obj in item.objects
    ]
    return {
        "images": len(facts),
        "images without objects": sum(not item.objects for item in facts),
        "objects": len(names),
        "difficult objects": sum(obj.difficult > 0 for i in facts for obj in i.objects),
        "objects per image": _percentiles([len(item.objects) for item in facts]),
        "image width px": _percentiles(sizes[:, 1]),
        "image height px": _percentiles(sizes[:, 0]),
        "object area px2": _percentiles(areas),
        "objects per class": {name: counts.get(name, 0) for name in order},
        "long side px": {name: _percentiles(sides[labels == name, 0]) for name in counts},
        "short side px": {name: _percentiles(sides[labels == name, 1]) for name in counts},
    }


def _percentiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    numbers = np.percentile(np.asarray(values, dtype=np.float64), _PERCENTILES)
    names = ("min", "5%", "median", "95%", "max")
    return {name: round(float(number), 2) for name, number in zip(names, numbers)}


def _map(
    work: Callable[[ImageTask], ImageFacts], tasks: Sequence[ImageTask], num_workers: int
) -> Iterator[ImageFacts]:
    if num_workers <= 1 or len(tasks) <= 1:
        yield from map(work, tasks)
        return
    with image_pool(min(num_workers, len(tasks))) as pool:
        yield from pool.map(work, tasks, chunksize=max(1, len(tasks) // (16 * num_workers)))
