"""Calls as data: the nodes of a configuration tree, from a `CfgNode` and to objects.

A node is what Detectron2's ``LazyCall`` makes: arguments, and what to call as ``_target_``.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from typing import Any

import yaml
from detectron2.config import CfgNode, LazyCall, configurable, instantiate
from detectron2.layers import ShapeSpec
from fvcore.common.registry import Registry
from omegaconf import DictConfig, OmegaConf

from tcm_d2.config.registries import PART_REGISTRY, REGISTRIES


def build_node(value: Any) -> Any:
    """Make the calls in ``value``, which get plain lists and dicts; return others as they are."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    return instantiate(value)


def configurable_with_nodes(
    init: Callable[..., None] | None = None,
    *,
    from_config: Callable[..., dict[str, Any]] | None = None,
) -> Any:
    """Decorate as Detectron2's ``configurable``, for a ``from_config`` that may return nodes.

    The same ``from_config`` then describes a part in a configuration tree, and makes it in
    ``Part(cfg)``: arguments that are nodes are built in the order in which they are given.
    """

    def with_built_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **{name: build_node(value) for name, value in kwargs.items()})

        call.takes_nodes = True  # type: ignore[attr-defined]
        return call

    if init is not None:
        return configurable(with_built_arguments(init))
    return lambda function: configurable(from_config=from_config)(with_built_arguments(function))


def takes_nodes(part: Any) -> bool:
    """Return whether a class or function is decorated with `configurable_with_nodes`."""
    function = getattr(part, "__init__") if isinstance(part, type) else part  # noqa: B009
    return bool(getattr(function, "takes_nodes", False))


def find_part(registry: Registry, name: str, *, key: str) -> Any:
    """Return the part of that name.

    Args:
        registry: where to look.
        name: of a class or function.
        key: of the configuration, for the message.

    Raises:
        ValueError: no such part; near matches and all names are listed.
    """
    if name in registry:
        return registry.get(name)
    known = [known_name for known_name, _ in registry]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    raise ValueError(
        f"{key}: unknown name {name!r}"
        + (f"; near matches: {', '.join(near)}" if near else "")
        + f"; known: {', '.join(known)}; a part of your own is registered by --import"
    )


def part_node(
    registry: Registry, name: str, cfg: CfgNode, shapes: Any = None, *, key: str
) -> DictConfig:
    """Return the node that makes a registered part from ``cfg``.

    A part with a ``from_config`` that returns plain values and nodes becomes a call with these
    arguments; any other one a call of `build_registered` with the whole of ``cfg``.

    Args:
        registry: where the part is.
        name: its name there.
        cfg: the configuration.
        shapes: ShapeSpec or list of such that the part takes besides; None for none.
        key: where ``cfg`` has the name, for messages.

    Raises:
        ValueError: no such part.
    """
    part = find_part(registry, name, key=key)
    given = () if shapes is None else (shapes,)
    if hasattr(part, "from_config"):
        arguments = part.from_config(cfg, *given)
        if all(map(is_plain, arguments.values())):
            node: DictConfig = LazyCall(part)(**arguments)
            return node
    node = LazyCall(build_registered)(
        registry=registry._name,
        name=name,
        cfg=yaml.safe_load(cfg.dump()),
        input_shape=_shapes_to_plain(shapes),
    )
    return node


@PART_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_registered(
    *, registry: str, name: str, cfg: dict[str, Any], input_shape: Any = None
) -> Any:
    """Return ``part(cfg, input_shape)``, as Detectron2 builds registered parts.

    Args:
        registry: name of the registry.
        name: of the part.
        cfg: a whole configuration as plain values.
        input_shape: a ShapeSpec's values as a dict, a list of such, or None to leave it out.

    Raises:
        ValueError: no such registry or part.
    """
    registries = {r._name: r for r in REGISTRIES}
    if registry not in registries:
        raise ValueError(f"registry: expected one of {', '.join(registries)}, got {registry!r}")
    part = find_part(registries[registry], name, key=registry)
    cfg, input_shape = build_node(cfg), build_node(input_shape)  # plain, from a DictConfig
    node = CfgNode(cfg)
    if input_shape is None:
        return part(node)
    if isinstance(input_shape, dict):
        return part(node, ShapeSpec(**input_shape))
    return part(node, [ShapeSpec(**shape) for shape in input_shape])


def is_plain(value: Any) -> bool:
    """Return whether ``value`` is a node, or made of plain values and nodes."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    return OmegaConf.is_config(value) or isinstance(value, (str, int, float, bool, type(None)))


def _shapes_to_plain(shapes: Any) -> Any:
    if shapes is None:
        return None
    if isinstance(shapes, ShapeSpec):
        values = {"channels": shapes.channels, "stride": shapes.stride}
        return {name: value for name, value in values.items() if value is not None}
    return [_shapes_to_plain(shape) for shape in shapes]
