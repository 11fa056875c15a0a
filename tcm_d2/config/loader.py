"""Read YAML configurations without ever running code from them, and say clearly what is wrong.

Detectron2's ``CfgNode.merge_from_file`` falls back to ``yaml.unsafe_load`` by default, fetches
remote bases, and names neither the file nor a near match for an unknown key. Files and command-line
overrides take the same path here: nested dictionary -> key check -> coercion -> assignment.
"""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from tcm_d2.config.defaults import get_tcm_config
from tcm_d2.config.old_names import drop_old_defaults
from tcm_d2.config.yaml_text import parse_yaml, read_yaml_text
from tcm_d2.packaged_configs import list_config_names

BASE_KEY = "_BASE_"
# More files than this are a fan of bases that name each other, not a configuration.
MAX_FILES = 64


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> CfgNode:
    """Return Detectron2's and tcm_d2's defaults, changed by a YAML file, then by ``overrides``.

    Args:
        path: YAML file; its ``_BASE_`` (a path relative to the file, or a list of such) is applied
            first. An empty path gives the defaults.
        overrides: ``KEY VALUE KEY VALUE ...`` with full keys (``SOLVER.BASE_LR 2e-4``). Values are
            Python literals, anything else is a string.

    Returns:
        The configuration, not frozen.

    Raises:
        FileNotFoundError: the file or a base of it does not exist.
        ValueError: the file is no plain YAML mapping or has a tag that would run code, a key is
            unknown (near matches are named), a value has the wrong type, or ``overrides`` has an
            odd number of entries.
    """
    cfg = get_tcm_config()
    if str(path):
        merge_file(cfg, path)
    merge_overrides(cfg, overrides)
    return cfg


def load_config_text(text: str, *, source: str) -> CfgNode:
    """Return the defaults changed by YAML text without bases; see :func:`load_config`.

    Args:
        text: a YAML mapping.
        source: where it is from, for messages.
    """
    tree = parse_yaml(text, source)
    if BASE_KEY in tree:
        raise ValueError(f"{source}: {BASE_KEY}: expected a whole configuration without bases")
    cfg = get_tcm_config()
    _merge_tree(cfg, tree, source)
    return cfg


def merge_file(cfg: CfgNode, path: str | os.PathLike[str]) -> None:
    """Merge a YAML file, bases first, into ``cfg`` in place; see :func:`load_config`."""
    for source, tree in _read_with_bases(Path(path).expanduser(), ()):
        _merge_tree(cfg, tree, source)


def merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Merge ``KEY VALUE`` pairs into ``cfg`` in place; see :func:`load_config`."""
    overrides = list(overrides)
    for key in overrides[::2]:
        if key.startswith("--"):
            raise ValueError(
                f"command line: option '{key}' stands after the first KEY VALUE pair, where it is "
                "read as a key; put it before them"
            )
    if len(overrides) % 2:
        raise ValueError(
            f"command line: expected KEY VALUE pairs, got {len(overrides)} entries: "
            f"{' '.join(overrides)}; '{overrides[-1]}' has no value"
        )
    for key, text in zip(overrides[::2], overrides[1::2]):
        tree: Any = _decode(text, _lookup(cfg, key))
        for part in reversed(key.split(".")):
            tree = {part: tree}
        _merge_tree(cfg, tree, "command line")


def _read_with_bases(path: Path, seen: tuple[Path, ...]) -> list[tuple[str, dict[str, Any]]]:
    """Return (source, tree) of the bases of ``path`` and of ``path`` itself, in merge order."""
    resolved = path.resolve()
    if resolved in seen:
        chain = " -> ".join(p.name for p in (*seen, resolved))
        raise ValueError(f"{path}: {BASE_KEY} goes in a circle: {chain}")
    if len(seen) >= MAX_FILES:
        raise ValueError(_too_many_files(path))
    tree = read_yaml(path)
    bases = tree.pop(BASE_KEY, [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{path}: {BASE_KEY}: expected a path or a list of paths, got {bases!r}")
    layers: list[tuple[str, dict[str, Any]]] = []
    for base in bases:
        if "://" in base:
            raise ValueError(
                f"{path}: {BASE_KEY}: '{base}' is remote and nothing is downloaded; save it beside "
                "this file and name that copy"
            )
        base_path = path.parent / Path(base).expanduser()
        if not base_path.is_file():
            raise FileNotFoundError(f"{path}: {BASE_KEY}: no file '{base_path}'")
        layers += _read_with_bases(base_path, (*seen, resolved))
        if len(layers) >= MAX_FILES:
            raise ValueError(_too_many_files(path))
    return [*layers, (str(path), tree)]


def _too_many_files(path: Path) -> str:
    return f"{path}: {BASE_KEY}: expected at most {MAX_FILES} files in all; name each base once"


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; bases stay names."""
    if not path.is_file():
        raise FileNotFoundError(missing_file_message(path, (".yaml", ".yml")))
    return parse_yaml(read_yaml_text(path), str(path))


def missing_file_message(path: Path, suffixes: Sequence[str]) -> str:
    """Say that a configuration file is missing, and which names with these suffixes are near."""
    if path.exists():
        return f"config file '{path}': expected a file, got a folder, pipe or device"
    message = f"config file '{path}' does not exist"
    if path.parent.is_dir():
        names = [p.name for p in path.parent.iterdir() if p.suffix in suffixes]
        near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4)
        if near:
            message += f"; near it: {', '.join(near)}"
    packaged = [name for name in list_config_names() if name.endswith(tuple(suffixes))]
    near = difflib.get_close_matches(path.as_posix().removeprefix("configs/"), packaged, n=3)
    if near and not path.is_absolute():
        message += f"; with tcm_d2 come {', '.join(near)} (tcm-d2 zoo lists all)"
    return message


def _merge_tree(cfg: CfgNode, tree: dict[str, Any], source: str) -> None:
    if cfg.is_frozen():
        raise ValueError(f"{source}: the configuration is frozen; merge before cfg.freeze()")
    drop_old_defaults(tree)
    _assign(cfg, _checked(cfg, cfg, tree, "", source))


def _assign(node: CfgNode, tree: dict[str, Any]) -> None:
    # Not CfgNode.merge_from_other_cfg: it would decode the string "123" once more, into a number.
    for key, value in tree.items():
        if isinstance(node[key], CfgNode):
            _assign(node[key], value)
        else:
            node[key] = value


def _checked(
    root: CfgNode, node: CfgNode, tree: dict[str, Any], prefix: str, source: str
) -> dict[str, Any]:
    """Return ``tree`` with values coerced to the types of ``node``; raise on what does not fit."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        full_key = f"{prefix}{key}"
        if not isinstance(key, str) or key not in node:
            raise ValueError(_unknown_key_message(root, full_key, source))
        current = node[key]
        if isinstance(current, CfgNode):
            if not isinstance(value, dict):
                raise ValueError(
                    f"{source}: {full_key} is a section, expected keys below it, got {value!r}"
                )
            result[key] = _checked(root, current, value, f"{full_key}.", source)
        else:
            result[key] = _coerced(value, current, full_key, source)
    if not prefix and "VERSION" in result and result["VERSION"] != root.VERSION:
        raise ValueError(
            f"{source}: VERSION: expected {root.VERSION}, got {result['VERSION']}; update the file"
        )
    return result


def _coerced(value: Any, current: Any, full_key: str, source: str) -> Any:
    """Return ``value`` in the type of ``current``; raise ValueError when it does not fit."""
    if isinstance(value, str) and not isinstance(current, str):
        value = _decode(value, current)  # YAML reads 1e-4 as a string
    if isinstance(current, (list, tuple)) and isinstance(value, (list, tuple)):
        return _as_sequence(value, current)
    if current is None or value is None or type(value) is type(current):
        return value
    if isinstance(current, float) and type(value) is int:
        return float(value)
    expected = type(current).__name__
    message = (
        f"{source}: {full_key}: expected {expected} (default {current!r}), got "
        f"{type(value).__name__} {value!r}"
    )
    if isinstance(current, (list, tuple)) and isinstance(value, str):
        message += f"; a single entry is written \"('{value}',)\""
    elif isinstance(current, bool):
        message += "; write True or False"
    raise ValueError(message)


def _as_sequence(value: Any, like: Any) -> Any:
    """Return ``value`` with lists and tuples as in ``like``, whose first entry stands for all."""
    if not isinstance(value, (list, tuple)) or not isinstance(like, (list, tuple)):
        return value
    first = like[0] if like else None
    return type(like)(_as_sequence(entry, first) for entry in value)


def _decode(text: str, current: Any) -> Any:
    """Return the Python literal in ``text``, or ``text`` itself when it is none."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    # "MODEL.WEIGHTS 123" names a file.
    return text if isinstance(current, str) and not isinstance(value, str) else value


def _lookup(cfg: CfgNode, full_key: str) -> Any:
    node: Any = cfg
    for part in full_key.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            raise ValueError(_unknown_key_message(cfg, full_key, "command line"))
        node = node[part]
    return node


def _unknown_key_message(root: CfgNode, full_key: str, source: str) -> str:
    keys = _all_keys(root, "")
    # A misspelt key has its neighbours in the same section, a misplaced one elsewhere.
    last_part = full_key.rsplit(".", 1)[-1]
    near = [key for key in keys if key.rsplit(".", 1)[-1] == last_part][:3]
    near += difflib.get_close_matches(full_key, keys, n=3, cutoff=0.75)
    hint = f"; near matches: {', '.join(dict.fromkeys(near))}" if near else ""
    return f"{source}: unknown key '{full_key}'{hint}"


def _all_keys(node: CfgNode, prefix: str) -> list[str]:
    keys: list[str] = []
    for key, value in node.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, CfgNode):
            keys += _all_keys(value, f"{prefix}{key}.")
    return keys
