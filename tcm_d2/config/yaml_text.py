"""Plain YAML of strangers: no tags that make objects, and no text that unfolds without end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

# The largest of our configurations has 20 kB and 700 values.
MAX_BYTES = 2**20
MAX_VALUES = 100_000
MAX_DEPTH = 100


def read_yaml_text(path: Path) -> str:
    """Return the text of a YAML file.

    Raises:
        ValueError: it is no text, or too long.
    """
    with path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path}: expected at most {MAX_BYTES:,} bytes; is this a configuration?")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from None


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Return the mapping in a YAML text, {} for an empty one.

    Args:
        text: of one document.
        source: where it is from, for messages.

    Raises:
        ValueError: it is no YAML or no mapping, has tags that would make objects, or aliases that
            would unfold to far more than a configuration has.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return {}
        _check_size(root, source)
        tree = _construct(loader, root)
    except yaml.constructor.ConstructorError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}" if mark is not None else source
        raise ValueError(
            f"{where}: refused: {error.problem}; only plain YAML values are read, because tags "
            "like !!python/object can run code"
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{source}: not a YAML file: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(
            f"{source}: expected a mapping of keys to values, got {type(tree).__name__}; is this a "
            "configuration file?"
        )
    return tree


def _construct(loader: yaml.SafeLoader, root: yaml.Node) -> Any:
    try:
        return loader.construct_document(root)
    except (OverflowError, ValueError) as error:  # a date or number that there is not
        raise yaml.YAMLError(str(error)) from None


def _check_size(root: yaml.Node, source: str) -> None:
    """Refuse a text whose aliases unfold to too many values, or hold themselves."""
    sizes: dict[int, int] = {}

    def size_of(node: yaml.Node, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise ValueError(
                f"{source}:{node.start_mark.line + 1}: expected at most {MAX_DEPTH} levels of "
                "values in values; does an alias (*name) stand inside its own anchor (&name)?"
            )
        if id(node) not in sizes:
            children = node.value if isinstance(node, yaml.CollectionNode) else ()
            parts = [part for c in children for part in (c if isinstance(c, tuple) else (c,))]
            sizes[id(node)] = 1 + sum(size_of(part, depth + 1) for part in parts)
        return sizes[id(node)]

    if size_of(root, 0) > MAX_VALUES:
        raise ValueError(
            f"{source}: its aliases (*name) unfold to more than {MAX_VALUES:,} values; write them "
            "out"
        )
