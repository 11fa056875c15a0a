"""The assignments of a Python text as data, for configurations that other libraries store.

The text is parsed and never run: of what is no literal, ``dict(...)`` or earlier name, nothing is
kept.
"""

from __future__ import annotations

import ast
from typing import Any


class _NoDataError(Exception):
    """An expression is no data."""


def read_python_values(text: str) -> dict[str, Any]:
    """Return the values of the names that a text assigns; entries that are no data are left out.

    Raises:
        ValueError: the text is no Python.
    """
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"no Python text ({type(error).__name__}: {error})") from None
    values: dict[str, Any] = {}
    for statement in statements:
        if not isinstance(statement, ast.Assign):
            continue
        for target in statement.targets:
            if isinstance(target, ast.Name):
                try:
                    values[target.id] = _value(statement.value, values)
                except _NoDataError:
                    values.pop(target.id, None)
    return values


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.List):
        return [_value(entry, names) for entry in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(entry, names) for entry in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand, names)
        if isinstance(number, (int, float)):
            return -number
    if isinstance(node, ast.Dict):
        return _entries(zip(node.keys, node.values, strict=True), names)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        if not node.args:
            pairs = [(_key_node(k.arg), k.value) for k in node.keywords]
            return _entries(pairs, names)
    raise _NoDataError


def _key_node(name: str | None) -> ast.expr | None:
    return None if name is None else ast.Constant(name)


def _entries(pairs: Any, names: dict[str, Any]) -> dict[str, Any]:
    """Return those of the entries that are data; a key of None is a ``**`` before a dict."""
    result: dict[str, Any] = {}
    for key, node in pairs:
        try:
            value = _value(node, names)
            if key is not None:
                result[str(_value(key, names))] = value
            elif isinstance(value, dict):
                result |= value
        except _NoDataError:
            continue
    return result
