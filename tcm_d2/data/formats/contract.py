"""What an annotation format is, and how the right one is found for a file.

A format is one module of this folder with a class below `AnnotationFormat`, marked with
`register_format`; a project outside registers its own the same way. Nothing else names formats.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import tcm_d2.data.formats
from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.content import FileContent
from tcm_d2.data.formats.reading import AnnotatedImage, FormatMismatch, Reading
from tcm_d2.messages import near_match_hint

AUTO = "auto"


class AnnotationFormat(ABC):
    """One format of annotation files.

    Attributes:
        name: what ``--format`` calls it.
        title: one line for the list of formats.
        suffixes: of its files, in lower case.
        also_reads: names of formats whose files may stand among its own.
        shows_upright: its tools label pictures as EXIF turns them, see ``frames``.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    also_reads: ClassVar[tuple[str, ...]] = ()
    shows_upright: ClassVar[bool] = False

    @abstractmethod
    def looks_like(self, content: FileContent) -> str | None:
        """Return what in a file speaks for this format and for no other; None without it.

        A file without objects may give None.
        """

    @abstractmethod
    def read(self, content: FileContent, reading: Reading) -> None:
        """Hand images and objects of a file to ``reading``.

        Each object is read inside ``reading.item(where)``, so that the options decide about errors.

        Raises:
            LabelError: (a ValueError) the file, or an object in it, cannot be used.
        """

    def write(self, images: Sequence[AnnotatedImage], classes: Sequence[str]) -> dict[str, bytes]:
        """Return the files, by name, that hold the annotations of images in this format.

        Args:
            images: every one with ``size_hw`` and ``file_name``.
            classes: all class names, in the order of their indices.
        """
        raise NotImplementedError

    @classmethod
    def is_written(cls) -> bool:
        """Whether `write` exists."""
        return cls.write is not AnnotationFormat.write


_Format = TypeVar("_Format", bound=type[AnnotationFormat])
_formats: dict[str, AnnotationFormat] = {}


def register_format(cls: _Format) -> _Format:
    """Make a format known by its name; a class decorator.

    Raises:
        ValueError: when the name is taken.
    """
    known = _formats.get(cls.name)
    if known is not None and type(known).__qualname__ != cls.__qualname__:
        raise ValueError(f"annotation format {cls.name!r}: the name is taken by {type(known)}")
    _formats[cls.name] = cls()
    return cls


def all_formats() -> dict[str, AnnotationFormat]:
    """Return all formats by name, those of this folder first."""
    for module in pkgutil.iter_modules(tcm_d2.data.formats.__path__):
        importlib.import_module(f"tcm_d2.data.formats.{module.name}")
    return dict(_formats)


def get_format(name: str) -> AnnotationFormat:
    """Return a format by its name.

    Raises:
        ValueError: unknown; names near matches and all that are known.
    """
    formats = all_formats()
    if name not in formats:
        raise ValueError(
            f"format: unknown format {name!r}{near_match_hint(name, formats)}; known: "
            f"{AUTO}, {', '.join(formats)}"
        )
    return formats[name]


def check_written(name: str) -> None:
    """Raise ValueError, with those that are, where a format is unknown or only read."""
    if not get_format(name).is_written():
        names = [name for name, item in all_formats().items() if item.is_written()]
        raise ValueError(
            f"format {name!r} is read, not written; formats that are written: {', '.join(names)}"
        )


def detect_format(content: FileContent) -> AnnotationFormat | None:
    """Return the format of a file; None where nothing speaks for one.

    Raises:
        LabelError: (a ValueError) a damaged file, or one that several formats claim.
    """
    found = {
        name: reason
        for name, candidate in all_formats().items()
        if (reason := _reason(content, candidate)) is not None
    }
    if len(found) > 1:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in found.items())
        raise LabelError(
            f"{content.path}: could be {reasons}; say which with --format", "ambiguous format"
        )
    return get_format(next(iter(found))) if found else None


def check_format(content: FileContent, wanted: AnnotationFormat) -> None:
    """Refuse a file that looks like another format than the one it is to be read as.

    Raises:
        FormatMismatch: (a ValueError) says what it looks like and which format reads it.
    """
    if _reason(content, wanted) is not None:
        return
    found = detect_format(content)
    if found is not None and found is not wanted and found.name not in wanted.also_reads:
        raise FormatMismatch(
            f"{content.path}: expected a file of {wanted.title}, got one that looks like "
            f"{found.title} ({found.looks_like(content)}); read it with --format {found.name}",
            "another format",
        )


def _reason(content: FileContent, candidate: AnnotationFormat) -> str | None:
    kinds = {suffix[1:] if suffix in (".xml", ".json") else "text" for suffix in candidate.suffixes}
    return candidate.looks_like(content) if content.kind in kinds else None


def files_of_format(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files of a folder with one of the suffixes, in any case, sorted by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
    )
