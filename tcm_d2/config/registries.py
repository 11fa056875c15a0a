"""The parts that a configuration may name, and how the files that register them are loaded.

A part registers itself beside its definition::

    @ROTATED_HEAD_REGISTRY.register()
    class MyHead(nn.Module): ...

It may declare ``add_config(cfg)``, a classmethod or an attribute, that adds its own keys to a
`CfgNode`; ``add_tcm_config`` calls it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from fvcore.common.registry import Registry

ROTATED_HEAD_REGISTRY = Registry("ROTATED_HEAD")
ROTATED_HEAD_REGISTRY.__doc__ = """
Rotated one-stage heads, chosen by MODEL.ROTATED_HEAD.NAME. Built from (cfg, input_shape), where
input_shape is a list of ShapeSpec, one per pyramid level.
"""
ROTATED_LOSS_REGISTRY = Registry("ROTATED_LOSS")
ROTATED_LOSS_REGISTRY.__doc__ = """
Losses of a head's boxes, chosen by MODEL.ROTATED_HEAD.BOX_LOSS.
"""
PART_REGISTRY = Registry("PART")
PART_REGISTRY.__doc__ = """
Everything else that a configuration may name: assigners, necks, mappers, evaluators, recipes.
"""
EVALUATOR_REGISTRY = Registry("EVALUATOR")
EVALUATOR_REGISTRY.__doc__ = """
What evaluates data sets of an ``evaluator_type`` other than "dota": classes or functions of that
name, called with dataset_name, output_dir and distributed.
"""
REGISTRIES = (
    ROTATED_HEAD_REGISTRY,
    ROTATED_LOSS_REGISTRY,
    PART_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
)

# Modules whose import registers what comes with this library.
BUILT_IN_MODULES = (
    "tcm_d2.modeling",
    "tcm_d2.data.mapper",
    "tcm_d2.evaluation.dota_evaluator",
    "tcm_d2.engine.optim",
)


def import_parts() -> None:
    """Register the parts that come with this library."""
    for name in BUILT_IN_MODULES:
        importlib.import_module(name)


def import_user_part(name_or_file: str | os.PathLike[str]) -> ModuleType:
    """Run a module of the user's own, once, so that it registers its parts, and return it.

    Args:
        name_or_file: ``my_package.my_head``, or a ``.py`` file, whose folder is added to the
            import path and whose stem becomes its module name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: there is no such module, or another one has the file's name.
    """
    if not os.fspath(name_or_file).endswith(".py"):
        name = os.fspath(name_or_file)
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise ValueError(
                f"--import {name}: no such module; name a .py file, or a module that Python finds "
                "from here (PYTHONPATH)"
            ) from error
    path = Path(name_or_file).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"--import {name_or_file}: no such file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    importlib.invalidate_caches()
    module = importlib.import_module(path.stem)
    found = getattr(module, "__file__", None)
    if found is None or Path(found).resolve() != path:
        raise ValueError(
            f"--import {name_or_file}: another module is named {path.stem!r} ({found}); rename "
            "the file"
        )
    return module


def import_user_parts(names_or_files: Sequence[str]) -> None:
    """Do `import_user_part` with each."""
    for name_or_file in names_or_files:
        import_user_part(name_or_file)


def registered_targets() -> dict[str, Any]:
    """Return every registered class and function by its dotted name.

    Only these may be built from the copy of a configuration in a run's folder.
    """
    parts = [part for registry in REGISTRIES for _, part in registry]
    return {f"{part.__module__}.{part.__qualname__}": part for part in parts}


def add_part_configs(cfg: CfgNode) -> None:
    """Let every registered part add its own keys to ``cfg`` in place."""
    for part in registered_targets().values():
        if hasattr(part, "add_config"):
            part.add_config(cfg)
