"""Image ids in rows whose fields are separated by blanks: written with escapes, read back the same.

An id is a file's name, and people's names hold blanks. White space, control characters and bytes
that are not UTF-8 are written as ``%`` and two hexadecimal digits for each byte, as in URLs:
``my%20scene``. A ``%`` that could be taken for such an escape is written ``%25``. All other ids,
those of any script included, stand in the file as they are.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

_ESCAPED_CATEGORIES = ("Cc", "Cs")
_ESCAPES = re.compile("(?:%[0-9A-Fa-f]{2})+")
_NUM_EXAMPLES = 3


def encode_image_id(image_id: str) -> str:
    """Return the id as one word, so that `decode_image_id` gives it back.

    Raises:
        ValueError: when it is empty.
    """
    if not image_id:
        raise ValueError("image id: expected a name, got an empty text; name the image")
    return "".join(
        _escape(character) if _needs_escape(image_id, position) else character
        for position, character in enumerate(image_id)
    )


def decode_image_id(text: str) -> str:
    """Return the id that a row means; escapes that `encode_image_id` does not write are kept."""
    if "%" not in text:
        return text
    return _ESCAPES.sub(_unescape, text)


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


def _needs_escape(image_id: str, position: int) -> bool:
    character = image_id[position]
    if character == "%":
        return _ESCAPES.match(image_id, position) is not None
    return _is_escaped(character)


def _is_escaped(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in _ESCAPED_CATEGORIES


def _escape(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


def _unescape(match: re.Match[str]) -> str:
    text = bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogateescape")
    is_ours = all(character == "%" or _is_escaped(character) for character in text)
    return text if is_ours else match[0]
