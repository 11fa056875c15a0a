"""The content of one annotation file, decoded once for all formats that look at it."""

from __future__ import annotations

import codecs
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tcm_d2.data.dota.labels import LabelError

# Chinese characters of older Windows systems; GB2312 and GBK are parts of it.
_CHINESE = "gb18030"
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(rb"^\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_FALSE_WORDS = ("", "0", "false", "f", "no", "n", "none", "null", "unspecified", "unknown")
_TRUE_WORDS = ("1", "true", "t", "yes", "y")
_SHOWN_CHARACTERS = 80
_KINDS = {"<": "xml", "{": "json", "[": "json"}


class FileContent:
    """One file; text, XML and JSON are decoded when first asked for.

    Attributes:
        path: the file.
        encoding: in which its text is decoded, known after `text`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.encoding = "utf-8"

    @cached_property
    def text(self) -> str:
        """The text, without a byte-order mark.

        Raises:
            LabelError: (a ValueError) no text in UTF-8, UTF-16, GB18030 or the encoding that its
                XML declaration names.
        """
        if not self.path.is_file():
            raise LabelError(f"{self.path}: expected a file, found none", "not a file")
        data = self.path.read_bytes()
        for mark, encoding in _BYTE_ORDER_MARKS:
            if data.startswith(mark):
                return self._decode(data[len(mark) :], [encoding])
        declared = _DECLARED.match(data)
        names = [declared[1].decode("ascii").lower()] if declared else []
        if names and names[0] in ("gb2312", "gbk"):
            names = [_CHINESE]
        return self._decode(data, [*names, "utf-8", _CHINESE])

    def _decode(self, data: bytes, encodings: Sequence[str]) -> str:
        for encoding in encodings:
            try:
                text = data.decode(encoding)
            except (UnicodeError, LookupError):
                continue
            if "\0" not in text:
                self.encoding = encoding
                return text
        raise LabelError(
            f"{self.path}: expected a text file in UTF-8 (or the encoding that its XML declaration "
            "names), got other bytes; is this an annotation file?",
            "not a text file",
        )

    @property
    def kind(self) -> str:
        """What the text begins like: "xml", "json" or "text"."""
        return _KINDS.get(self.text.lstrip()[:1], "text")

    @cached_property
    def rows(self) -> list[tuple[int, str]]:
        """(number, line) of the lines that are not blank, without blanks around."""
        lines = enumerate(self.text.splitlines(), start=1)
        return [(number, line.strip()) for number, line in lines if line.strip()]

    @cached_property
    def xml(self) -> ElementTree.Element | None:
        """The root element; None for a file that is no XML at all.

        Raises:
            LabelError: (a ValueError) XML that ends early or is damaged.
        """
        if self.kind != "xml":
            return None
        text = _DECLARATION.sub("", self.text, count=1)
        if "<!ENTITY" in text:
            raise LabelError(
                f"{self.path}: expected annotations, got XML with entities of its own, which are "
                "not expanded; remove the <!ENTITY> declarations",
                "XML with entities",
            )
        try:
            return ElementTree.fromstring(text)
        except (ElementTree.ParseError, ValueError) as error:
            raise LabelError(
                f"{self.path}: expected an XML file, got something else ({error}); fetch it again",
                "not an XML file",
            ) from None

    @cached_property
    def json(self) -> Any:
        """The decoded JSON; None for a file that is no JSON at all.

        Raises:
            LabelError: (a ValueError) JSON that ends early or is damaged.
        """
        if self.kind != "json":
            return None
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise LabelError(
                f"{self.path}: expected a JSON file, got a damaged one ({str(error)[:120]}); fetch "
                "it again",
                "not a JSON file",
            ) from None


def shown(value: object) -> str:
    """Return a value of a file as it stands in messages."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def to_number(value: object, what: str) -> float:
    """Return a finite number that a file gives as text or number.

    Raises:
        LabelError: (a ValueError) otherwise; starts with ``what``.
    """
    number = math.nan
    if (
        not isinstance(value, bool)
        and isinstance(value, (int, float, str))
        and "_" not in str(value)
    ):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            pass
    if not math.isfinite(number):
        raise LabelError(f"expected a finite number in {what}, got {shown(value)}", "not a number")
    return number


def to_numbers(values: object, what: str, count: int | None = None) -> tuple[float, ...]:
    """Return the numbers of a list, ``count`` of them where that is given.

    Raises:
        LabelError: (a ValueError) otherwise; starts with ``what``.
    """
    if not isinstance(values, (list, tuple)) or (count is not None and len(values) != count):
        wanted = "a list of numbers" if count is None else f"{count} numbers"
        raise LabelError(
            f"expected {wanted} in {what}, got {shown(values)}", "wrong number of values"
        )
    return tuple(to_number(value, what) for value in values)


def to_flag(value: object, what: str) -> int:
    """Return 1 for 1, true, yes; 0 for 0, false, no, nothing and "Unspecified".

    Raises:
        LabelError: (a ValueError) for anything else; starts with ``what``.
    """
    word = "" if value is None else str(value).strip().lower()
    if word in _TRUE_WORDS:
        return 1
    if word in _FALSE_WORDS:
        return 0
    raise LabelError(
        f"expected 1 or true, 0 or false in {what}, got {shown(value)}", "bad difficult flag"
    )


def child(node: ElementTree.Element, name: str) -> ElementTree.Element:
    """Return the first child of a name.

    Raises:
        LabelError: (a ValueError) there is none.
    """
    found = node.find(name)
    if found is None:
        raise LabelError(
            f"expected <{name}> in every <{node.tag}>, found none; is this a file of that format?",
            "missing element",
        )
    return found


def child_text(node: ElementTree.Element, name: str) -> str:
    """Return the text of a child, without blanks around; see `child`."""
    return (child(node, name).text or "").strip()


def child_number(node: ElementTree.Element, name: str) -> float:
    """Return the number in a child; see `child` and `to_number`."""
    return to_number(child_text(node, name), f"<{name}>")


def child_flag(node: ElementTree.Element, name: str) -> int:
    """Return the flag in a child, 0 where there is none; see `to_flag`."""
    found = node.find(name)
    return 0 if found is None else to_flag(found.text, f"<{name}>")


def are_numbers(fields: Iterable[str]) -> bool:
    """Return whether all fields are finite numbers."""
    try:
        return all(math.isfinite(float(field)) for field in fields)
    except ValueError:
        return False
