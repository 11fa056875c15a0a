"""A configuration's tree as plain data, and what its nodes describe as objects.

The target of a node is the part itself, or its dotted name; a name is only ever looked up among
the registered parts.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tcm_d2.config.registries import import_parts, registered_targets
from tcm_d2.messages import near_match_hint

TARGET_KEY = "_target_"
# Begins the target of what has no name: no registry gives such a one.
_UNNAMED = "<object>"


def plain(value: Any) -> Any:
    """Return LazyCalls, CfgNodes and tuples in a value as plain dicts and lists, all of it new.

    Raises:
        ValueError: an interpolation leads nowhere.
    """
    if isinstance(value, (DictConfig, ListConfig)):
        try:
            value = OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException as error:
            raise ValueError(f"configuration: {str(error).splitlines()[0]}") from None
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value


def with_names(value: Any) -> Any:
    """Return plain data with classes and functions replaced by their dotted names.

    What is neither data nor has a name is written down, too, in a form that cannot be built.
    """
    if isinstance(value, dict):
        first = {TARGET_KEY: value[TARGET_KEY]} if TARGET_KEY in value else {}
        return {key: with_names(entry) for key, entry in {**first, **value}.items()}
    if isinstance(value, list):
        return [with_names(entry) for entry in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if callable(value) and hasattr(value, "__qualname__"):
        return dotted_name(value)
    return {TARGET_KEY: f"{_UNNAMED} {value!r}"}


def dotted_name(part: Any) -> str:
    """Return the name of a class or function, by which trees call it."""
    return f"{part.__module__}.{part.__qualname__}"


def make_node(part: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node of a registered part, its name instead of itself."""
    return {TARGET_KEY: dotted_name(part), **arguments}


def build(node: Mapping[str, Any], **arguments: Any) -> Any:
    """Build what a node describes, and the nodes in its arguments before it, in their order.

    Args:
        node: plain data.
        arguments: further ones, as they are.

    Raises:
        ValueError: a target is given by name, and no registered part has it; or it lacks an
            argument.
    """
    try:
        return instantiate({**_with_parts(node), **arguments})
    except TypeError as error:
        if "missing" not in str(error) or "required" not in str(error):
            raise
        raise ValueError(
            f"configuration: {error}; give it in the configuration, or take the whole copy that "
            "the run wrote"
        ) from error


def check_calls(tree: Any) -> None:
    """Raise ValueError when a node in ``tree`` has an argument that its target does not take.

    Arguments still missing are not looked at: some come at run time. Targets that are no registered
    part are left alone: they are refused where they are built.

    Raises:
        ValueError: names the key and near matches, or an interpolation that leads nowhere.
    """
    import_parts()
    known = registered_targets()
    for key, node in _nodes(plain(tree), ""):
        target = node[TARGET_KEY]
        target = known.get(target) if isinstance(target, str) else target
        try:
            parameters = inspect.signature(target).parameters  # type: ignore[arg-type]
        except (TypeError, ValueError):  # written in C, or unknown
            continue
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        for name in map(str, node):
            if name != TARGET_KEY and name not in parameters:
                raise ValueError(
                    f"configuration: {key}.{name}: {getattr(target, '__name__', target)} takes no "
                    "such argument"
                    f"{near_match_hint(name, parameters)}; it takes: {', '.join(parameters)}"
                )


def _nodes(value: Any, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, node) of every node at or below a plain value."""
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        if TARGET_KEY in value:
            yield prefix, value
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, entry in items:
        yield from _nodes(entry, f"{prefix}.{key}" if prefix else str(key))


def _with_parts(value: Any) -> Any:
    """Return plain data with the names of targets replaced by the registered parts."""
    if isinstance(value, list):
        return [_with_parts(entry) for entry in value]
    if not isinstance(value, Mapping):
        return value
    result = {key: _with_parts(entry) for key, entry in value.items()}
    name = result.get(TARGET_KEY)
    if isinstance(name, str):
        import_parts()
        known = registered_targets()
        if name not in known:
            raise ValueError(
                f"configuration: refused to build '{name}': it is no registered part. If it is a "
                "part of your own, name the file that registers it (--import my_part.py); or give "
                "the Python configuration that you trust (my_config.py) instead of a copy"
            )
        result[TARGET_KEY] = known[name]
    return result
