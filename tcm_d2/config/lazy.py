"""Read Python configurations (LazyConfig), and check what Detectron2 leaves to the crash later on.

Detectron2's ``LazyConfig.apply_overrides`` adds a misspelt key silently, and a misspelt argument of
a call shows only when it is called. Here both are errors that name near matches. A Python
configuration is a program: only run those you trust.
"""

from __future__ import annotations

import builtins
import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf

from tcm_d2.config.loader import missing_file_message
from tcm_d2.config.old_names import rename_override
from tcm_d2.config.plain import TARGET_KEY

SUFFIX = ".py"
_SOURCE = "command line"


def load_lazy_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> DictConfig:
    """Run a Python configuration and change it by ``overrides``.

    Args:
        path: a ``.py`` file whose module-level dicts and LazyCalls are the configuration.
        overrides: ``key=value`` in Detectron2's (Hydra's) syntax, ``optimizer.lr=2e-4``; a new key
            is written ``+key=value``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file does not run, an override cannot be read, its key is unknown (near
            matches are named) or its value has another type than the one it replaces.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(missing_file_message(path, (SUFFIX,)))
    original_import = builtins.__import__
    try:
        cfg: DictConfig = LazyConfig.load(os.fspath(path))
    except Exception as error:  # a program can fail in any way
        raise ValueError(f"{path}: cannot be run: {type(error).__name__}: {error}") from error
    finally:
        # Detectron2 leaves its own in place when the file fails.
        builtins.__import__ = original_import
    apply_overrides(cfg, overrides)
    return cfg


def located(value: Any) -> Any:
    """Return plain data with the names of targets replaced by what they name.

    For what a Python configuration says, which is trusted to name anything: Detectron2 has names in
    place of dataclasses.
    """
    if isinstance(value, list):
        return [located(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    result = {key: located(entry) for key, entry in value.items()}
    if isinstance(result.get(TARGET_KEY), str):
        result[TARGET_KEY] = locate(result[TARGET_KEY])
    return result


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Change ``cfg`` in place; see :func:`load_lazy_config`."""
    for text in overrides:
        if text.startswith("--"):
            raise ValueError(
                f"{_SOURCE}: option '{text}' stands after the first key=value, where it is read "
                "as a key; put it before them"
            )
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
            value = override.value()
        except OverrideParseException as error:
            raise ValueError(
                f"{_SOURCE}: '{text}': expected key=value, as in optimizer.lr=2e-4, "
                f'"dataloader.train.names=[a,b]" or "train.output_dir=\'a=b\'": '
                f"{str(error).splitlines()[0]}"
            ) from None
        if override.is_delete():
            raise ValueError(
                f"{_SOURCE}: '{text}': keys are not deleted; set them to another value"
            )
        key = override.key_or_group
        pairs = [(key, value)]
        if not override.is_add() and not _has(cfg, key):
            pairs = rename_override(key, value)
        for key, value in pairs:
            if not override.is_add():
                value = _fitting(value, _lookup(cfg, key), key)
            OmegaConf.update(cfg, key, value, merge=False, force_add=True)


def _has(cfg: DictConfig, key: str) -> bool:
    try:
        _lookup(cfg, key)
    except ValueError:
        return False
    return True


def _lookup(cfg: DictConfig, key: str) -> Any:
    """Return the value of a dotted key, or raise ValueError with near matches."""
    node: Any = cfg
    for part in key.split("."):
        if isinstance(node, DictConfig) and not node._is_none() and part in node:
            node = node[part]
        elif isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            raise ValueError(_unknown_key_message(cfg, key))
    return node


def _unknown_key_message(cfg: DictConfig, key: str) -> str:
    keys = list(_all_keys(cfg, ""))
    last_part = key.rsplit(".", 1)[-1]
    near = [k for k in keys if k.rsplit(".", 1)[-1] == last_part][:3]
    near += difflib.get_close_matches(key, keys, n=3, cutoff=0.7)
    hint = f"; near matches: {', '.join(dict.fromkeys(near))}" if near else ""
    return f"{_SOURCE}: unknown key '{key}'{hint}; a new key is written +{key}=..."


def _all_keys(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, DictConfig) and not node._is_none():
        for key in map(str, node):
            if key != TARGET_KEY:
                yield f"{prefix}{key}"
                # Not by index: what an interpolation leads to is another key's value.
                yield from _all_keys(node._get_node(key), f"{prefix}{key}.")


def _fitting(value: Any, current: Any, key: str) -> Any:
    """Return ``value`` in the type of the value it replaces, or raise ValueError."""
    if current is None or value is None or (isinstance(current, DictConfig) and value == {}):
        return value
    if isinstance(current, float) and type(value) is int:
        return float(value)
    if isinstance(current, str) and isinstance(value, (int, float)) and type(value) is not bool:
        return str(value)  # a file named 123
    wanted = dict if isinstance(current, DictConfig) else type(current)
    wanted = list if isinstance(current, (ListConfig, tuple)) else wanted
    if type(value) is wanted:
        return value
    if isinstance(value, str) and "${" in value:
        return value
    raise ValueError(
        f"{_SOURCE}: {key}: expected {wanted.__name__} (now {_short(current)}), got "
        f"{type(value).__name__} {value!r}"
        + (f"; a single entry is written {key}=[{value}]" if wanted is list else "")
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
