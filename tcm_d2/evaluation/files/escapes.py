"""Names that a row or a file name cannot hold: written with escapes, read back the same.

Rows of result files are separated by blanks, and people's image names hold some; a class may be
called ``car/van``, and has a file of its own. What does not fit is written as ``%`` and two
hexadecimal digits for each byte, as in URLs: ``my%20scene``, ``Task1_car%2Fvan.txt``. A ``%`` that
could be taken for such an escape is written ``%25``. All other names, those of any script included,
stand as they are.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

_CONTROL_CATEGORIES = ("Cc", "Cs")
# Of parts of a path, on any system.
_SEPARATORS = "/\\"
_UNPRINTABLE_CATEGORIES = (*_CONTROL_CATEGORIES, "Zl", "Zp")
_ESCAPES = re.compile("(?:%[0-9A-Fa-f]{2})+")
_NUM_EXAMPLES = 3


def encode_image_id(image_id: str) -> str:
    """Return the id as one word, so that `decode_image_id` gives it back.

    Raises:
        ValueError: when it is empty.
    """
    if not image_id:
        raise ValueError("image id: expected a name, got an empty text; name the image")
    return _encode(image_id, _is_escaped_in_rows)


def decode_image_id(text: str) -> str:
    """Return the id that a row means; escapes that `encode_image_id` does not write are kept."""
    return _decode(text, _is_escaped_in_rows)


def encode_file_part(name: str) -> str:
    """Return a name as a part of a file name, so that `decode_file_part` gives it back."""
    return _encode(name, _is_escaped_in_files)


def decode_file_part(text: str) -> str:
    """Return the name that `encode_file_part` was given; escapes it does not write are kept."""
    return _decode(text, _is_escaped_in_files)


def match_image_id(image_id: str, known: Collection[str]) -> str:
    """Return the one of the known ids that is meant by an id out of a result file.

    Files of other tools may hold what looks like our escapes and is the image's own name.
    """
    if image_id not in known:
        literal = encode_image_id(image_id)
        if literal in known:
            return literal
    return image_id


def read_image_list(path: str | os.PathLike[str]) -> list[str]:
    """Return the image ids in a text file, one a line, blank lines left out.

    Raises:
        ValueError: when there are none.
    """
    lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    image_ids = [line.strip() for line in lines if line.strip()]
    if not image_ids:
        raise ValueError(f"{path}: expected image ids, one per line, got an empty file")
    return image_ids


def describe_escaped_ids(image_ids: Iterable[str]) -> str:
    """Return a sentence about the ids that result files hold with escapes; "" if there are none."""
    changed = [name for name in dict.fromkeys(image_ids) if encode_image_id(name) != name]
    if not changed:
        return ""
    examples = ", ".join(f"{name!r} as {encode_image_id(name)}" for name in changed[:_NUM_EXAMPLES])
    return (
        f"{len(changed)} image names hold white space or the like, which rows of result files "
        f"(Task1_<class>.txt) cannot: there they are written with escapes ({examples}), and read "
        "back by these tools; the DOTA server knows the names without"
    )


def _encode(name: str, is_escaped: Callable[[str], bool]) -> str:
    return "".join(
        _escape(character)
        if is_escaped(character) or (character == "%" and _ESCAPES.match(name, position))
        else character
        for position, character in enumerate(name)
    )


def _decode(text: str, is_escaped: Callable[[str], bool]) -> str:
    def unescape(match: re.Match[str]) -> str:
        original = bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogateescape")
        is_ours = all(character == "%" or is_escaped(character) for character in original)
        return original if is_ours else match[0]

    return _ESCAPES.sub(unescape, text) if "%" in text else text


def _is_escaped_in_rows(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in _CONTROL_CATEGORIES


def _is_escaped_in_files(character: str) -> bool:
    return character in _SEPARATORS or unicodedata.category(character) in _UNPRINTABLE_CATEGORIES


def _escape(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
