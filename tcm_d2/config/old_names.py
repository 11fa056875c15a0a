"""Earlier spellings: what old copies of configurations and old overrides become."""

from __future__ import annotations

import inspect
from typing import Any

from tcm_d2.config.registries import import_parts, registered_targets

# Sections and keys of a Python configuration that have another place; the first that fits is taken.
_RENAMED_KEYS = (
    ("model.clip.class_prompts", "model.class_text"),
    ("model.clip.tokens_per_class", "model.class_text.tokens_per_class"),
    ("model.clip", "model.backbone"),
    ("model.fpn", "model.neck"),
    ("model.head.box_loss_mode", "model.head.box_loss.mode"),
    ("model.head.box_loss_weight", "model.head.box_loss.weight"),
)
# Parts that have another name; those that only moved are found by theirs.
_RENAMED_PARTS = {
    "build_detector": "RotatedOneStageDetector",
    "CLIPConfig": "build_clip_resnet",
    "format_prompts": "ClassTextConfig",
}
# Keys of a whole YAML copy that had no effect, or another default, when it was written.
_OLD_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "INPUT.MIN_SIZE_TRAIN": ([800], (800,)),
    "INPUT.MIN_SIZE_TEST": (800,),
    "MODEL.DEVICE": ("cuda",),
    "MODEL.BACKBONE.NAME": ("build_resnet_backbone",),
}
# Arguments that are gone, by what took them.
_RETIRED_ARGUMENTS = {"RotatedDatasetMapper": ("load_alternatives",)}
_TARGET = "_target_"


def rename_override(key: str, value: Any) -> list[tuple[str, Any]]:
    """Return what an override of a key that is not there means today; itself if it never was."""
    if key == "model.clip.with_text":
        off = [("model.class_text", None), ("dataloader.train.mapper.with_class_masks", False)]
        return [] if value else off
    for old, new in _RENAMED_KEYS:
        if key == old or key.startswith(f"{old}."):
            return [(new + key[len(old) :], value)]
    return [(key, value)]


def upgrade_tree(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree of a copy, of whichever version, in today's form.

    Args:
        tree: plain data; not changed.
    """
    upgraded: dict[str, Any] = _with_new_targets(tree)
    if "clip" in upgraded["model"]:
        upgraded["model"] = _with_own_sections(upgraded["model"])
        # It meant: where there is one.
        if upgraded["train"]["device"] == "cuda":
            upgraded["train"]["device"] = None
    return upgraded


def without_retired_arguments(value: Any) -> Any:
    """Return plain data whose nodes lack the arguments that are gone: older files name them."""
    if isinstance(value, list):
        return [without_retired_arguments(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    target = value.get(_TARGET)
    name = target.rpartition(".")[2] if isinstance(target, str) else getattr(target, "__name__", "")
    gone = _RETIRED_ARGUMENTS.get(name, ())
    return {k: without_retired_arguments(entry) for k, entry in value.items() if k not in gone}


def drop_old_defaults(values: dict[str, Any]) -> None:
    """Take keys that had another default out of the whole copy of a CfgNode, in place."""
    if not {"VERSION", "GLOBAL", "MODEL", "INPUT"} <= values.keys():
        return  # not a whole one: what it says is meant
    for key, old in _OLD_DEFAULTS.items():
        *sections, last = key.split(".")
        node: Any = values
        for section in sections:
            node = node.get(section, {})
        if last in node and node[last] in old:
            del node[last]


def _with_own_sections(model: dict[str, Any]) -> dict[str, Any]:
    """Return a model with one section for all of CLIP, with a section for each part."""
    rest = dict(model)
    backbone = dict(rest.pop("clip"))
    text, tokens_per_class = backbone.pop("class_prompts"), backbone.pop("tokens_per_class")
    has_text = backbone.pop("with_text")
    if isinstance(text, list):
        text = {_TARGET: _new_target("ClassTextConfig"), "class_names": text, "template": "{label}"}
    return {
        _TARGET: rest.pop(_TARGET),
        "head": _with_box_loss(rest.pop("head")),
        "backbone": backbone,
        "class_text": {**text, "tokens_per_class": tokens_per_class} if has_text else None,
        "tcm": rest.pop("tcm"),
        "neck": {"in_features": ["res3", "res4", "res5"], **rest.pop("fpn")},
        **rest,
    }


def _with_box_loss(head: dict[str, Any]) -> dict[str, Any]:
    """Return a head whose loss on boxes is a node, where it takes one."""
    part = registered_targets().get(head[_TARGET])
    if part is None or "box_loss" not in inspect.signature(part).parameters:
        return head
    rest = dict(head)
    weight, mode = rest.pop("box_loss_weight"), rest.pop("box_loss_mode", None)
    if mode is None:
        loss = {_TARGET: _new_target("L1Loss"), "weight": weight}
    else:
        loss = {_TARGET: _new_target("RotatedIoULoss"), "mode": mode, "weight": weight}
    return {**rest, "box_loss": loss}


def _with_new_targets(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_new_targets(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    result = {key: _with_new_targets(entry) for key, entry in value.items()}
    if isinstance(result.get(_TARGET), str):
        result[_TARGET] = _new_target(result[_TARGET])
    return result


def _new_target(name: str) -> str:
    """Return the dotted name of the part that is or was called ``name``; else ``name`` itself."""
    import_parts()
    known = registered_targets()
    package, _, last = name.rpartition(".")
    if name in known or package.split(".")[0] not in ("", "tcm_d2"):
        return name
    last = _RENAMED_PARTS.get(last, last)
    found = [new for new in known if new.startswith("tcm_d2.") and new.rpartition(".")[2] == last]
    return found[0] if len(found) == 1 else name
