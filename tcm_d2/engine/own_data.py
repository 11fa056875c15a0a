"""``--data``: one description of a data set takes the place of a dozen settings of a run."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tcm_d2.config.run import Run
from tcm_d2.data.description import TRAIN, VAL, read_description
from tcm_d2.data.dota.classes import class_name_to_prompt, expand_class_names
from tcm_d2.data.preparation import PreparedData, prepare_data

# In the run's folder, unless --data-cache names another place.
CACHE_FOLDER = "data"
# Overrides that --data would replace without a word.
_REPLACED_KEYS = (
    *("DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.PATCH_DIRS", "DATASETS.CLASSES"),
    *("MODEL.ROTATED_HEAD.NUM_CLASSES", "INPUT.PATCH_SIZE_PX", "model.head.num_classes"),
    *("dataloader.train.names", "dataloader.test.names", "dataloader.patch_dirs"),
    *("dataloader.classes", "dataloader.train.patch_size_px"),
)
_PROMPT_KEYS = ("MODEL.TCM.CLASS_NAMES", "model.class_text.class_names")


def with_own_data(run: Run, args: argparse.Namespace) -> Run:
    """Return the run on the data that ``--data`` describes; cut into patches where they are not.

    Args:
        run: as its file and overrides say.
        args: of `tcm_d2.engine.options`; without ``data`` the run is returned as it is.

    Raises:
        FileNotFoundError, ValueError: see `read_description` and `prepare_data`.
    """
    if args.data is None:
        if args.keep_classes or args.classes or args.patch_size or args.data_cache:
            raise ValueError(
                "--classes, --keep-classes, --patch-size, --data-cache: only with --data"
            )
        return run
    keys = [text.partition("=")[0].lstrip("+") for text in args.opts]
    if replaced := [key for key in keys if key in _REPLACED_KEYS]:
        raise ValueError(
            f"{', '.join(replaced)}: follows from --data; leave it out, or do without --data"
        )
    classes = None if args.classes is None else expand_class_names(args.classes)
    description = read_description(args.data, classes=classes)
    prepared = prepare_data(
        description,
        Path(args.data_cache or Path(run.train.output_dir) / CACHE_FOLDER),
        keep_classes=args.keep_classes,
        patch_size_px=args.patch_size,
        num_workers=min(os.cpu_count() or 1, 8),
    )
    # Other words for the same classes, which the user gave.
    keeps_prompts = any(key in _PROMPT_KEYS for key in keys)
    # A folder's data.yaml, or train.json: the folder says more.
    path = Path(args.data).resolve()
    return apply_data(run, prepared, name=_word(path), keeps_prompts=keeps_prompts)


def apply_data(run: Run, data: PreparedData, *, name: str, keeps_prompts: bool = False) -> Run:
    """Return the run with these data: classes, prompts, outputs of the head, data sets, patches.

    Args:
        name: of the data set; its splits are ``<name>_train`` and ``<name>_val``.
        keeps_prompts: the prompts are those of the run.
    """
    names = {split: f"{name}_{split}" for split in data.splits}
    entries = [f"{names[k]}={s.patch_dir}={s.label_dir}" for k, s in data.splits.items()]
    num = len(data.classes)
    loader = run.dataloader
    train = dataclasses.replace(
        loader.train,
        names=[names[TRAIN]],
        patch_size_px=data.patch_size_px,
        mapper=_with_num_classes(loader.train.mapper, num),
    )
    test = dataclasses.replace(
        loader.test, names=[names[VAL]], mapper=_with_num_classes(loader.test.mapper, num)
    )
    model: dict[str, Any] = _with_num_classes(run.model, num)
    text = model.get("class_text")
    if isinstance(text, dict) and not keeps_prompts:
        prompts = [class_name_to_prompt(word) for word in data.classes]
        model = {**model, "class_text": {**text, "class_names": prompts}}
    return dataclasses.replace(
        run,
        model=model,
        dataloader=dataclasses.replace(
            loader, patch_dirs=entries, classes=list(data.classes), train=train, test=test
        ),
    )


def _with_num_classes(node: Any, number: int) -> Any:
    """Return a node with ``num_classes`` set wherever it stands in it."""
    if isinstance(node, Mapping):
        return {
            key: number if key == "num_classes" else _with_num_classes(value, number)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_with_num_classes(value, number) for value in node]
    return node


def _word(path: Path) -> str:
    """Return a name for a data set: of its folder, where that says more than the file."""
    parts: Sequence[str] = [path.stem if path.is_file() else path.name, path.parent.name]
    plain = ("data", "dataset", "train", "instances_train", "annotations", "labels", "")
    chosen = next((part for part in parts if part not in plain), "own")
    return re.sub(r"[^\w.-]+", "-", chosen)
