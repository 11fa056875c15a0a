"""Parts of error messages: near matches of a misspelt name, and lists of names cut short."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

# So many names of a list are shown; the rest is counted.
MAX_NAMES_SHOWN = 5


def near_matches(
    name: str, known: Iterable[str], *, num: int = 3, cutoff: float = 0.5
) -> list[str]:
    """Return the known names that look most like ``name``, the nearest first; case is ignored.

    Args:
        cutoff: least likeness, from 0 (anything) to 1 (equal).
    """
    # Names that differ only in case all belong to one folded name.
    folded: dict[str, list[str]] = {}
    for item in known:
        folded.setdefault(item.casefold(), []).append(item)
    near = difflib.get_close_matches(name.casefold(), list(folded), n=num, cutoff=cutoff)
    return [item for key in near for item in folded[key]][:num]


def near_match_hint(name: str, known: Iterable[str], *, num: int = 3, cutoff: float = 0.5) -> str:
    """Return "; near matches: ..." to put behind a message, or "" where nothing is near."""
    near = near_matches(name, known, num=num, cutoff=cutoff)
    return f"; near matches: {', '.join(near)}" if near else ""


def some_names(
    names: Sequence[object], separator: str = ", ", *, num: int = MAX_NAMES_SHOWN
) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - num} more" if len(names) > num else ""
    return separator.join(str(name) for name in names[:num]) + more
