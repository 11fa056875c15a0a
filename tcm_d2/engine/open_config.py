"""Open a configuration of either kind by the suffix of its file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.config.lazy import SUFFIX as LAZY_SUFFIX
from tcm_d2.config.lazy import load_lazy_config
from tcm_d2.config.loader import load_config
from tcm_d2.engine.from_lazy import plan_from_lazy
from tcm_d2.engine.from_yaml import plan_from_yaml
from tcm_d2.engine.plan import Plan
from tcm_d2.engine.run_folder import usable_device

YAML_SUFFIXES = (".yaml", ".yml")


def open_plan(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Plan:
    """Return the plan of a configuration file; where there is no CUDA it is for the CPU.

    Args:
        path: ``.yaml`` (then ``overrides`` are ``KEY VALUE`` pairs) or ``.py`` (``key=value``).
        overrides: see `load_config` and `load_lazy_config`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix, or a file or override that cannot be used.
    """
    suffix = Path(path).suffix
    if suffix == LAZY_SUFFIX:
        lazy = load_lazy_config(path, overrides)
        device = lazy.get("train", {}).get("device")
        if isinstance(device, str):
            lazy.train.device = usable_device(device)
        return plan_from_lazy(lazy)
    if suffix in YAML_SUFFIXES:
        cfg = load_config(path, overrides)
        cfg.MODEL.DEVICE = usable_device(cfg.MODEL.DEVICE)
        return plan_from_yaml(cfg)
    raise ValueError(
        f"config file '{path}': expected {', '.join(YAML_SUFFIXES)} or {LAZY_SUFFIX}, got "
        f"'{suffix or 'no suffix'}'"
    )
