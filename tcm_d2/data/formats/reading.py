"""What a reader of annotation files is given: options, and where its objects and doubts go."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from tcm_d2.data.dota.classes import ClassSpelling, describe_unknown_class
from tcm_d2.data.dota.labels import (
    MIN_QUAD_AREA_PX2,
    WRITTEN_DECIMALS,
    AllProblems,
    LabelError,
    LabelProblems,
)
from tcm_d2.data.formats.content import shown
from tcm_d2.data.formats.outlines import Outline
from tcm_d2.data.images import IMAGE_SUFFIXES, BadImageError, read_head
from tcm_d2.data.raster_reader.orientation import upright_size_hw
from tcm_d2.files import UnsafeNameError, checked_name
from tcm_d2.structures.quads import (
    order_quads_around_center,
    quads_cross_themselves,
    signed_areas,
)

OnError = Literal["stop", "skip", "repair"]
Polygons = Literal["rectangle", "refuse"]
AngleUnit = Literal["radians", "degrees"]
Bbox5 = Literal["center", "corner", "detectron2"]
_NUM_CORNERS = 4
# No image is so large; coordinates beyond are damage, and their areas lose all digits.
_MAX_COORDINATE_PX = 1e7
# Twice the area at a corner above which rounding changes nothing.
_PLAIN_TURN_PX2 = 1.0
# Suffixes of images that nothing here reads, but annotation files name.
_OTHER_IMAGE_SUFFIXES = (".webp", ".jp2", ".j2k", ".img", ".vrt", ".gif", ".jfif", ".ntf")


_KINDS = {UnsafeNameError: "bad file name", BadImageError: "unreadable image"}


class FormatMismatch(LabelError):
    """The file is not of the format that it is read as; leaving objects out mends nothing."""


class AnnotatedObject(NamedTuple):
    """One object; ``difficult`` as in DOTA's files, ``score`` for detections."""

    quad: tuple[float, ...]
    class_name: str
    difficult: int = 0
    score: float | None = None


@dataclass
class AnnotatedImage:
    """An image with its objects.

    Attributes:
        image_id: the file's name without suffix.
        file_name: as the annotations give it, "" where they don't.
        size_hw: height and width as the annotations give them; None where they don't.
        source: the annotation file.
    """

    image_id: str
    file_name: str = ""
    size_hw: tuple[int, int] | None = None
    source: Path | None = None
    objects: list[AnnotatedObject] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How annotations are read.

    Attributes:
        classes: names by index, for formats that write indices; the allowed names elsewhere.
        image_paths: image files by id, for formats that write parts of the image's size.
        on_error: "stop" at the first object that cannot be used, "skip" it and count it, or
            "repair" what can be (corners that cross), and skip the rest.
        strict: upright boxes for want of an angle, repairs and everything left out are errors.
        polygons: "rectangle" fits the smallest rectangle to polygons of more or less than four
            corners and to masks, "refuse" takes them for errors; None fits and counts, and refuses
            when strict.
        angle_unit: of the angles in the file, where it is not the format's own.
        bbox5: what the first two numbers of a COCO ``bbox`` of five are.
        keep_all: every complaint is kept, not only the first few.
    """

    classes: Mapping[int, str] | None = None
    image_paths: Mapping[str, Path] = field(default_factory=dict)
    on_error: OnError = "stop"
    strict: bool = False
    polygons: Polygons | None = None
    angle_unit: AngleUnit | None = None
    bbox5: Bbox5 | None = None
    keep_all: bool = False


@dataclass
class ReadSummary:
    """What was read, and what became of it.

    Attributes:
        formats: files by the format they were read as.
        kinds: objects kept, by where their corners come from.
        num_difficult: objects kept that are difficult.
        class_counts: objects kept, by class.
        left_out: objects (and files and images) left out, by reason.
        repaired: what was changed to be usable, by kind.
        renamed: class names with blanks, and how they are written.
        turned_images: files whose annotations were turned from the picture as EXIF turns it into
            the frame of the stored pixels.
    """

    formats: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    num_difficult: int = 0
    class_counts: Counter[str] = field(default_factory=Counter)
    left_out: LabelProblems = field(default_factory=LabelProblems)
    repaired: LabelProblems = field(default_factory=LabelProblems)
    renamed: dict[str, str] = field(default_factory=dict)
    turned_images: list[str] = field(default_factory=list)

    @property
    def num_objects(self) -> int:
        """Objects kept."""
        return sum(self.kinds.values())


class Reading:
    """Collects the images and objects of annotation files by the rules of `ReadOptions`."""

    def __init__(self, options: ReadOptions) -> None:
        self.options = options
        kind = AllProblems if options.keep_all else LabelProblems
        self.summary = ReadSummary(left_out=kind(), repaired=kind())
        self.images: dict[str, AnnotatedImage] = {}
        self._word_of: dict[str, str] = {}

    @contextmanager
    def item(self, where: str) -> Iterator[None]:
        """Read one object, image or file in this: errors get ``where`` in front, or are counted."""
        try:
            yield
        except FormatMismatch as error:
            raise FormatMismatch(_placed(where, error), error.kind) from None
        except (LabelError, UnsafeNameError, BadImageError) as error:
            kind = error.kind if isinstance(error, LabelError) else _KINDS[type(error)]
            placed = LabelError(_placed(where, error), kind)
            if self.options.on_error == "stop" or self.options.strict:
                raise placed from None
            self.summary.left_out.add(kind, str(placed))

    def leave_out(self, kind: str, message: str) -> None:
        """Count something that has no outline by its nature: a point, a line, a tag.

        Raises:
            LabelError: when strict.
        """
        if self.options.strict:
            raise LabelError(f"{message}; not left out because of --strict", kind)
        self.summary.left_out.add(kind, message)

    def repair(self, kind: str, message: str) -> None:
        """Count something that was put right.

        Raises:
            LabelError: when strict.
        """
        if self.options.strict:
            raise LabelError(f"{message}; not repaired because of --strict", kind)
        self.summary.repaired.add(kind, message)

    def new_image(
        self, file_name: object, *, source: Path, size_hw: tuple[int, int] | None = None
    ) -> AnnotatedImage:
        """Start an image; folders and the suffix of its name are dropped.

        Raises:
            LabelError, UnsafeNameError: (ValueErrors) no usable name, or that of another image.
        """
        if not isinstance(file_name, str) or not file_name.strip():
            raise LabelError(f"expected a file name, got {shown(file_name)}", "bad file name")
        if "\\" in file_name:
            self.repair("Windows separators", f"{source}: {shown(file_name)} read with /")
        name = checked_name(file_name.replace("\\", "/").rpartition("/")[2], where="file name")
        image_id = image_id_of(name)
        if image_id in self.images:
            other = self.images[image_id]
            raise LabelError(
                f"expected file names that differ in more than folder and suffix, got {name!r} and "
                f"{other.file_name or other.source}; label files are named by the stem: rename the "
                "images",
                "two images of one name",
            )
        image = AnnotatedImage(image_id, file_name, size_hw, source)
        self.images[image_id] = image
        return image

    def size_hw(self, image: AnnotatedImage) -> tuple[int, int]:
        """Return height and width of an image as it is shown, from its file where there is one.

        Raises:
            FormatMismatch: (a ValueError) neither the file nor the annotations tell.
        """
        path = self.options.image_paths.get(image.image_id)
        if path is not None:
            head = read_head(path)
            return upright_size_hw(head.size_hw, head.orientation)
        if image.size_hw is not None:
            return image.size_hw
        raise FormatMismatch(
            f"image {image.image_id!r}: its corners are parts of the image's size, which is not "
            "known; give the folder of the images (--images)",
            "unknown image size",
        )

    def add(
        self,
        image: AnnotatedImage,
        class_name: object,
        outline: Outline,
        difficult: int = 0,
        score: float | None = None,
    ) -> None:
        """Add an object to an image.

        Raises:
            LabelError: (a ValueError) an outline or a class name that cannot be used.
        """
        word = self._class_word(class_name)
        if outline.kind == "fitted" and (
            self.options.polygons == "refuse"
            or (self.options.strict and self.options.polygons is None)
        ):
            raise LabelError(
                "expected four corners, got a polygon or mask of another form; --polygons "
                "rectangle takes the smallest rectangle around it",
                "polygon of other than four corners",
            )
        if outline.kind == "upright" and self.options.strict:
            raise LabelError(
                "expected a turned box, got an upright one without an angle, which --strict "
                "refuses; without it such boxes are kept and counted",
                "upright box",
            )
        quad = self._checked_quad(outline.quad)
        image.objects.append(AnnotatedObject(quad, word, difficult, score))
        self.summary.kinds[outline.kind] += 1
        self.summary.class_counts[word] += 1
        self.summary.num_difficult += difficult > 0

    def _checked_quad(self, quad: Sequence[float]) -> tuple[float, ...]:
        if _is_plainly_convex(quad):
            return tuple(quad)
        corners = np.array(quad, dtype=np.float64).reshape(1, _NUM_CORNERS, 2)
        if not np.isfinite(corners).all() or np.abs(corners).max() > _MAX_COORDINATE_PX:
            raise LabelError(
                f"expected corners within {_MAX_COORDINATE_PX:g} px, got {_as_text(quad)}",
                "corners far outside",
            )
        if quads_cross_themselves(corners)[0]:
            if self.options.on_error != "repair":
                raise LabelError(
                    f"expected corners in order around the object, got the self-crossing "
                    f"{_as_text(quad)}; --on-error repair orders them",
                    "self-crossing quad",
                )
            self.repair("self-crossing quad", f"corners put in order: {_as_text(quad)}")
            corners = order_quads_around_center(corners)
        # What is written is what has to have an area.
        written = np.round(corners, WRITTEN_DECIMALS)
        if abs(float(signed_areas(written)[0])) < MIN_QUAD_AREA_PX2:
            raise LabelError(f"expected an area, got {_as_text(quad)}", "quad without area")
        return tuple(corners.reshape(-1).tolist())

    def _class_word(self, class_name: object) -> str:
        if not isinstance(class_name, str) or not class_name.strip():
            raise LabelError(f"expected a class name, got {shown(class_name)}", "no class name")
        if class_name not in self._word_of:
            self._word_of[class_name] = self._new_class_word(class_name)
        return self._word_of[class_name]

    def _new_class_word(self, class_name: str) -> str:
        word = "-".join(class_name.split())
        if not word.isprintable():
            raise LabelError(
                f"expected a class name of printable characters, got {shown(class_name)}",
                "bad class name",
            )
        allowed = self.options.classes
        # Blanks, "_" and "-" are equal; the spelling asked for, or the first one, is written.
        words = list(self._word_of.values())
        if allowed is not None:
            words = ["-".join(name.split()) for name in allowed.values()]
        found = ClassSpelling(list(dict.fromkeys(words))).find(word)
        if found is None and allowed is not None:
            raise LabelError(describe_unknown_class(class_name, words), "unknown class")
        word = found or word
        if word != class_name:
            self.summary.renamed[class_name] = word
        return word

    def angle_rad(self, angle: float, unit: AngleUnit) -> float:
        """Return an angle of the file in radians.

        Args:
            unit: the format's own.

        Raises:
            FormatMismatch: (a ValueError) an angle that is more than a whole turn in this unit.
        """
        unit = self.options.angle_unit or unit
        turn = 2 * math.pi if unit == "radians" else 360.0
        if abs(angle) > turn * (1 + 1e-6):
            other = "degrees" if unit == "radians" else "radians"
            raise FormatMismatch(
                f"expected an angle in {unit}, got {angle:g}, more than a whole turn; if the files "
                f"hold {other}, read them with --angle-unit {other}",
                f"angle not in {unit}",
            )
        return angle if unit == "radians" else math.radians(angle)


def _is_plainly_convex(quad: Sequence[float]) -> bool:
    """Return whether a quad in reach turns the same way, and not just a little, at all corners.

    Most do, and need no arrays.
    """
    x1, y1, x2, y2, x3, y3, x4, y4 = quad
    turns = (
        (x2 - x1) * (y3 - y2) - (y2 - y1) * (x3 - x2),
        (x3 - x2) * (y4 - y3) - (y3 - y2) * (x4 - x3),
        (x4 - x3) * (y1 - y4) - (y4 - y3) * (x1 - x4),
        (x1 - x4) * (y2 - y1) - (y1 - y4) * (x2 - x1),
    )
    return (
        (min(turns) > _PLAIN_TURN_PX2 or max(turns) < -_PLAIN_TURN_PX2)
        and -_MAX_COORDINATE_PX <= min(quad)
        and max(quad) <= _MAX_COORDINATE_PX
    )


def image_id_of(file_name: str) -> str:
    """Return a file name without the suffix of an image; other dots belong to the id."""
    stem, dot, suffix = file_name.rpartition(".")
    known = f".{suffix.lower()}" in (*IMAGE_SUFFIXES, *_OTHER_IMAGE_SUFFIXES)
    return stem if dot and stem and known else file_name


def _as_text(quad: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in quad)


def _placed(where: str, error: Exception) -> str:
    text = str(error)
    return text if text.startswith(where) else f"{where}: {text}"
