"""Public names and signatures are those of public_api.json; docs/public_api.md lists them.

After a change on purpose: python -m tests.test_public_api
"""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from types import FunctionType

PINNED = Path(__file__).with_name("public_api.json")
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "public_api.md"


def surface(names: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return the signatures of public names as they are now, by module."""
    return {
        module: {
            name: signature(getattr(importlib.import_module(module), name)) for name in members
        }
        for module, members in names.items()
    }


def signature(thing: object) -> str:
    """Return how a name is used: a signature, the methods of a class too; "value" for the rest."""
    if not callable(thing):
        return "value"
    if not inspect.isclass(thing):
        return parameters(thing)
    methods = [
        f"{name}{parameters(getattr(thing, name))}"
        for name, member in sorted(vars(thing).items())
        if isinstance(member, (FunctionType, classmethod, staticmethod))
        and (not name.startswith("_") or name == "__call__")
    ]
    return "; ".join([f"class{parameters(thing)}", *methods])


def parameters(function: object) -> str:
    """Return the parameters' names, kinds and whether they may be left out."""
    try:
        found = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(...)"
    texts, last = [], None
    for p in found:
        if p.kind is p.KEYWORD_ONLY and last not in (p.KEYWORD_ONLY, p.VAR_POSITIONAL):
            texts.append("*")
        star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        texts.append(f"{star}{p.name}" + ("=" if p.default is not p.empty else ""))
        last = p.kind
    return f"({', '.join(texts)})"


def test_names_and_signatures_are_pinned() -> None:
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))
    assert surface(pinned) == pinned


def test_what_packages_offer_is_pinned() -> None:
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))
    for module, members in pinned.items():
        offered = getattr(importlib.import_module(module), "__all__", None)
        if offered is not None:
            assert set(offered) == members.keys(), module


def test_the_document_lists_them() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))
    missing = [f"{m}.{n}" for m, names in pinned.items() for n in names if f"`{n}`" not in text]
    assert missing == []
    assert [m for m in pinned if f"`{m}`" not in text] == []


if __name__ == "__main__":
    known = json.loads(PINNED.read_text(encoding="utf-8"))
    PINNED.write_text(json.dumps(surface(known), indent=1) + "\n", encoding="utf-8")
