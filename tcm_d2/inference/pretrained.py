"""Build a trained detector from its configuration, of any kind, and its weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tcm_d2.checkpoint.load import EMA_KEY, SafeCheckpointer, load_weights
from tcm_d2.checkpoint.published import is_published, published_run
from tcm_d2.config.device import usable_device
from tcm_d2.config.run import Run, Views, open_config
from tcm_d2.config.saved_copy import holds_config
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES, class_name_to_prompt
from tcm_d2.inference.find_files import DetectorFiles
from tcm_d2.weight_files.reading import read_weight_file

# Of an evaluator that does not merge windows: the default of TEST.DOTA.MERGE_NMS_THRESH.
_MERGE_NMS_IOU = 0.1


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A trained detector and what its configuration says about inference.

    Attributes:
        model: in evaluation mode, on its device.
        classes: class names in label order.
        image_format: order of the input's channels.
        resize_factor: on images before the model sees them.
        merge_nms_threshold: IoU above which merging windows suppresses.
        views: of a test-time augmentation.
        window_scales: factors at which a picture is looked at.
        patch_size_px: side of most images that it was trained on; 0 is not known.
    """

    model: nn.Module
    classes: tuple[str, ...]
    image_format: str
    resize_factor: float
    merge_nms_threshold: float
    views: Views
    window_scales: tuple[float, ...]
    patch_size_px: int


def build_pretrained(
    sources: DetectorFiles,
    *,
    device: str | torch.device | None,
    class_names: Sequence[str] | None,
    prompts: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
) -> Pretrained:
    """Build the model of a configuration and load its weights; every parameter must be there.

    Args:
        sources: see `find_detector_files`.
        device: None takes CUDA where there is one, else the CPU.
        class_names: names in label order; None takes those of the configuration. With an open
            vocabulary any number of them, which is then what the text tower reads.
        prompts: what the text tower reads for the classes, in label order, where that is not
            their names; None takes those of the configuration.
        overrides: see `open_config`.

    Raises:
        FileNotFoundError, ValueError: files or overrides that cannot be used, weights that do not
            fit, another number of class names or prompts than the model has, prompts for a model
            without a text tower, or a device that is not there.
    """
    place = usable_device(device)
    run = _open(sources, overrides)
    model = run.build_model(with_part_weights=False, device="cpu")
    checkpointer = SafeCheckpointer(model)
    rest = checkpointer.load(
        os.fspath(sources.weights), checkpointables=[], require_all_parameters=True
    )
    if run.train.ema_decay > 0 and EMA_KEY in rest:
        load_weights(model, rest[EMA_KEY], source=f"{sources.weights}, {EMA_KEY}")
    is_open = getattr(model, "is_open_vocabulary", False)
    if is_open and prompts is not None:
        classes = check_class_names(class_names, prompts, len(prompts))
    elif is_open and class_names is not None:
        classes = check_class_names(class_names, class_names, None)
        prompts = [class_name_to_prompt(name) for name in classes]
    else:
        classes = check_class_names(class_names, class_names_of(run), run.num_classes)
    if prompts is not None:
        _set_prompts(model, prompts, run)
    test = run.dataloader.test
    return Pretrained(
        model=model.to(place).eval(),
        classes=classes,
        image_format=test.mapper.get("image_format", "RGB"),
        resize_factor=_resize_factor(test.mapper.get("augmentations", ())),
        merge_nms_threshold=float(test.evaluator.get("nms_iou_threshold", _MERGE_NMS_IOU)),
        views=test.tta,
        window_scales=tuple(test.window_scales),
        patch_size_px=run.dataloader.train.patch_size_px,
    )


def _open(sources: DetectorFiles, overrides: Sequence[str]) -> Run:
    """Return the run of a detector, whose weights may be all there is."""
    if sources.config == sources.weights:
        file = read_weight_file(sources.weights)
        if not holds_config(file) and is_published(file):
            if overrides:
                raise ValueError(
                    f"overrides ({' '.join(overrides)}): a published detector has no configuration "
                    "file yet; tcm-d2 convert writes one"
                )
            return published_run(file, sources.weights)
    return open_config(sources.config, overrides)


def check_class_names(
    given: Sequence[str] | None, configured: Sequence[str], num_classes: int | None
) -> tuple[str, ...]:
    """Return the class names of a model.

    Raises:
        ValueError: another number of names than the head has outputs, or a name twice.
    """
    names = tuple(configured) if given is None else tuple(given)
    if isinstance(given, str):
        raise ValueError(f"class_names: expected a list of names, got the text {given!r}")
    if num_classes is not None and len(names) != num_classes:
        known = ", ".join(configured)
        raise ValueError(
            f"class_names: expected {num_classes} names, one per output of the head, got "
            f"{len(names)} ({', '.join(names)}); the configuration says: {known}"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"class_names: expected different names, got {twice} more than once")
    return names


def class_names_of(run: Run) -> tuple[str, ...]:
    """Return the class names of a run: the data set's, DOTA's, the prompts, or numbers."""
    if run.dataloader.classes:
        return tuple(run.dataloader.classes)
    dota = [class_name_to_prompt(name) for name in DOTA_V1_CLASSES]
    if run.prompts is None:
        if run.num_classes in (None, len(DOTA_V1_CLASSES)):
            return DOTA_V1_CLASSES
        return tuple(f"class {index}" for index in range(run.num_classes or 0))
    if [class_name_to_prompt(prompt) for prompt in run.prompts] == dota:
        return DOTA_V1_CLASSES
    return tuple(run.prompts)


def _set_prompts(model: nn.Module, prompts: Sequence[str], run: Run) -> None:
    detector: Any = model
    if not hasattr(detector, "set_class_names"):
        raise ValueError(f"prompts: a {type(model).__name__} has no class names to set")
    template = "{label}" if run.class_text is None else run.class_text[1]
    detector.set_class_names(prompts, template=template)


def _resize_factor(augmentations: Sequence[Any]) -> float:
    for augmentation in augmentations:
        if isinstance(augmentation, dict) and augmentation.get("factors"):
            return float(augmentation["factors"][0])
    return 1.0
