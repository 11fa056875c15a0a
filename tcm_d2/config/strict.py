"""No key is ignored in silence: what nothing reads may not differ from its default."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode, get_cfg

logger = logging.getLogger(__name__)

# Detectron2's keys that have another one's place here.
_INSTEAD = {
    "INPUT.MIN_SIZE_TRAIN": "INPUT.RESIZE_FACTORS_TRAIN",
    "INPUT.MAX_SIZE_TRAIN": "INPUT.RESIZE_FACTORS_TRAIN",
    "INPUT.MIN_SIZE_TEST": "INPUT.RESIZE_FACTOR_TEST",
    "INPUT.MAX_SIZE_TEST": "INPUT.RESIZE_FACTOR_TEST",
    "INPUT.RANDOM_FLIP": "INPUT.FLIP_PROBS",
    "INPUT.CROP.ENABLED": "tcm-d2 split, which cuts patches beforehand",
    "TEST.DETECTIONS_PER_IMAGE": "MODEL.ROTATED_HEAD.MAX_DETECTIONS",
    "TEST.AUG.ENABLED": "TEST.TTA.ENABLED",
    "MODEL.RETINANET.NUM_CLASSES": "MODEL.ROTATED_HEAD.NUM_CLASSES",
    "MODEL.ROI_HEADS.NUM_CLASSES": "MODEL.ROTATED_HEAD.NUM_CLASSES",
    "MODEL.FPN.OUT_CHANNELS": "MODEL.ROTATED_FPN.OUT_CHANNELS",
    "SOLVER.WEIGHT_DECAY_NORM": "SOLVER.WEIGHT_DECAY",
    "SOLVER.BIAS_LR_FACTOR": "SOLVER.IMAGE_TOWER_LR_FACTOR",
    "SOLVER.REFERENCE_WORLD_SIZE": "SOLVER.REFERENCE_BATCH_SIZE",
}
# Says of a file what format it has; read where files are merged.
_ALWAYS_READ = ("VERSION",)


class WatchedConfig(CfgNode):  # type: ignore[misc]
    """A copy of a configuration that remembers which of its keys were read.

    Iterating over a section reads all of its keys.
    """

    def __init__(self, cfg: CfgNode, prefix: str = "", read: set[str] | None = None) -> None:
        """Args:
        cfg: not changed.
        prefix: of the keys, with a dot at the end.
        read: the full keys that were read, shared with the sections.
        """
        super().__init__()
        self.__dict__["_prefix"] = prefix
        self.__dict__["_read"] = set() if read is None else read
        for key, value in dict.items(cfg):
            if isinstance(value, CfgNode):
                value = WatchedConfig(value, f"{prefix}{key}.", self.__dict__["_read"])
            dict.__setitem__(self, key, value)

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        self.__dict__["_read"].add(f"{self.__dict__['_prefix']}{key}")
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """Return as dict does, and remember."""
        return self[key] if key in self else default

    def items(self) -> Any:
        """Return as dict does, and remember; the sections in it remember for themselves."""
        return [(key, self[key]) for key in super().keys()]

    def values(self) -> Any:
        """Return as dict does, and remember."""
        return [self[key] for key in super().keys()]

    def __iter__(self) -> Iterator[str]:
        # Defined so that dict(node) goes through __getitem__.
        return iter(super().keys())

    def __deepcopy__(self, memo: dict[int, Any]) -> WatchedConfig:
        copied = WatchedConfig(CfgNode(), self.__dict__["_prefix"], self.__dict__["_read"])
        for key in self:
            dict.__setitem__(copied, key, copy.deepcopy(dict.__getitem__(self, key), memo))
        return copied

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Return as CfgNode does, for a foreign part: of its own is the section MODEL."""
        before = set(self.read_keys)
        text: str = super().dump(*args, **kwargs)
        self.read_keys.intersection_update(before)
        self.read_keys.update(key for key, _ in leaves(self) if key.startswith("MODEL."))
        return text

    @property
    def read_keys(self) -> set[str]:
        """The full keys read so far, those of sections included."""
        read: set[str] = self.__dict__["_read"]
        return read


def check_everything_is_read(cfg: WatchedConfig, defaults: CfgNode) -> None:
    """Refuse keys of Detectron2, and warn of tcm_d2's, that were changed and have no effect.

    What another key switches off may say what it likes.

    Args:
        cfg: after all that reads it has done so.
        defaults: Detectron2's and tcm_d2's.

    Raises:
        ValueError: names the keys of Detectron2, and what to use in their place.
    """
    default_values, detectron2_keys = dict(leaves(defaults)), dict(leaves(get_cfg()))
    read = set(cfg.read_keys)
    changed = [
        (key, value, default_values[key])
        for key, value in leaves(cfg)
        if key not in read
        and key not in _ALWAYS_READ
        and key in default_values
        and value != default_values[key]
    ]
    changed = [entry for entry in changed if not _is_switched_off(entry[0], cfg)]
    refused = [
        f"{key} (default {default!r}, got {value!r})"
        + (f": use {_INSTEAD[key]}" if key in _INSTEAD else "")
        for key, value, default in changed
        if key in detectron2_keys
    ]
    if refused:
        raise ValueError(
            f"configuration: Detectron2's keys without an effect here: {'; '.join(refused)}. Leave "
            "them at their defaults"
        )
    unused = [key for key, _, _ in changed if key not in detectron2_keys]
    if unused:
        logger.warning(
            "configuration: no effect on a %s: %s",
            dict.__getitem__(cfg, "MODEL").META_ARCHITECTURE,
            ", ".join(unused),
        )


def leaves(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (full key, value) of all that is no section; a watched one does not notice."""
    for key, value in dict.items(cfg):
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_switched_off(key: str, cfg: CfgNode) -> bool:
    """Return whether a key belongs to what another key switches off."""
    if key.startswith("SOLVER.CLIP_GRADIENTS."):
        return not cfg.SOLVER.CLIP_GRADIENTS.ENABLED
    return key.startswith("MODEL.TCM.") and not cfg.MODEL.TCM.ENABLED
