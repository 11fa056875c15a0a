"""Turn a data set dict into what the model reads: an image tensor and fitted boxes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances, RotatedBoxes
from torch import Tensor

from tcm_d2.data.augmentation import PointAugmentation, apply_augmentations, build_augmentations
from tcm_d2.data.images import BadImageError, read_image
from tcm_d2.structures.conversions import quads_to_boxes
from tcm_d2.structures.masks import boxes_to_class_masks

logger = logging.getLogger(__name__)

# A box thinner than this after augmentation has no use as a target and no stable angle.
MIN_BOX_SIDE_PX = 1e-3
# So many other images are tried in place of a bad one before giving up.
_MAX_REPLACEMENTS = 50
# The first complaints are logged one by one, later ones every so often.
_NUM_LOGGED_SINGLY = 10
_LOG_EVERY = 100
_NUM_CORNERS = 4
_NUM_CHANNELS = 3


class _Target(NamedTuple):
    boxes: Tensor  # (M, 5)
    classes: Tensor  # (M,)
    difficult: Tensor  # (M,)


class RotatedDatasetMapper:
    """Reads the image, moves image and corners together, fits the boxes.

    Called with a dict of `tcm_d2.data.dota.loading`, returns a new one with

    - ``image``: (3, H, W) uint8 tensor, channels in ``image_format`` order, after augmentation;
    - ``height``, ``width``: the size of the file, as Detectron2 wants it (equal to H, W unless
      the image was resized);
    - ``file_name, image_id, source_image_id, patch_origin_xy, patch_scale`` as given;
    - in training ``instances``: ``gt_boxes`` RotatedBoxes (M, 5) canonical, pixels of ``image``,
      not clipped; ``gt_classes`` int64 (M,); ``gt_difficult`` bool (M,);
    - in training with class masks ``class_masks``: bool (K, H // stride, W // stride).

    Objects whose centre an augmentation moves out of the image are dropped, and so are boxes
    without size (counted in ``num_dropped_objects``). Randomness comes from NumPy's global state,
    which Detectron2 seeds per worker.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[PointAugmentation],
        image_format: Literal["RGB", "BGR"],
        num_classes: int,
        with_class_masks: bool,
        mask_stride_px: int,
        on_bad_image: Literal["raise", "skip"],
        load_alternatives: Callable[[], list[dict[str, Any]]] | None,
    ) -> None:
        """Keep the choices; ``RotatedDatasetMapper(cfg, is_train)`` reads them from a config.

        Args:
            on_bad_image: in training, "skip" feeds another image in place of an unreadable one,
                counts and logs it; at test time an unreadable image is always an error.
            load_alternatives: returns dicts to choose from when the very first image is bad. With
                None a bad image gives None, for a loader that chooses another image itself.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT: expected 'RGB' or 'BGR', got {image_format!r}")
        if on_bad_image not in ("raise", "skip"):
            raise ValueError(
                f"INPUT.ON_BAD_IMAGE: expected 'raise' or 'skip', got {on_bad_image!r}"
            )
        self._is_train = is_train
        self._augmentations = list(augmentations)
        self._image_format = image_format
        self._num_classes = num_classes
        self._with_class_masks = with_class_masks
        self._mask_stride_px = mask_stride_px
        self._skip_bad = on_bad_image == "skip" and is_train
        self._load_alternatives = load_alternatives
        self._last_good: dict[str, Any] | None = None
        # In shared memory, so that forked loader workers add to the same counts.
        self._counts = torch.zeros(2, dtype=torch.int64).share_memory_()

    @property
    def image_format(self) -> str:
        """Order of the channels of the images it gives, "RGB" or "BGR"."""
        return self._image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool) -> dict[str, Any]:
        """Return the constructor's arguments for a configuration."""
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.ROTATED_HEAD.NUM_CLASSES,
            "with_class_masks": cfg.MODEL.TCM.ENABLED,
            "mask_stride_px": cfg.MODEL.TCM.AUX_STRIDE_PX,
            "on_bad_image": cfg.INPUT.ON_BAD_IMAGE,
            "load_alternatives": partial(_load_datasets, tuple(cfg.DATASETS.TRAIN)),
        }

    @property
    def num_skipped_images(self) -> int:
        """Unreadable images skipped so far, over all forked loader workers."""
        return int(self._counts[0])

    @property
    def num_dropped_objects(self) -> int:
        """Objects dropped for lack of size so far, over all forked loader workers."""
        return int(self._counts[1])

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """Return the mapped dict, or None to ask the loader for another image.

        Raises:
            FileNotFoundError, BadImageError: an unreadable image, or one of another size than the
                data set says, unless it is to be skipped; names the file.
            ValueError: annotations that cannot be used; names the file.
            RuntimeError: when every image tried is unreadable.
        """
        try:
            mapped = self._map(dataset_dict)
        except (OSError, BadImageError) as error:
            if not self._skip_bad:
                raise
            self._count_skipped(error)
            return self._map_another(dataset_dict)
        if self._skip_bad and self._load_alternatives is not None:
            self._last_good = dataset_dict
        return mapped

    def _map(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        file_name = dataset_dict["file_name"]
        image = read_image(file_name, channel_order=self._image_format)
        _check_size(dataset_dict, image)
        quads = np.zeros((0, _NUM_CORNERS, 2))
        if self._is_train:
            quads = _quads_of(dataset_dict)
        rng = np.random.default_rng(np.random.randint(2**31, size=4))  # noqa: NPY002
        moved = apply_augmentations(self._augmentations, image, quads.reshape(-1, 2), rng)
        mapped = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        mapped["height"], mapped["width"] = image.shape[:2]
        chw = np.empty((_NUM_CHANNELS, *moved.image.shape[:2]), dtype=np.uint8)
        cv2.split(moved.image, list(chw))  # seven times as fast as NumPy's strided copy
        mapped["image"] = torch.from_numpy(chw)  # (3, H, W)
        if self._is_train:
            size_hw = (int(chw.shape[1]), int(chw.shape[2]))
            stayed = _centers_inside(moved.points.reshape(-1, _NUM_CORNERS, 2), size_hw)
            # Objects cut by the patch border may have had their centre outside from the start.
            stayed |= ~_centers_inside(quads, image.shape[:2])
            target = self._fit(dataset_dict, moved.points.reshape(quads.shape), stayed)
            mapped["instances"] = _to_instances(target, size_hw)
            if self._with_class_masks:
                mapped["class_masks"] = boxes_to_class_masks(
                    target.boxes,
                    target.classes,
                    num_classes=self._num_classes,
                    image_size_hw=size_hw,
                    stride_px=self._mask_stride_px,
                )
        return mapped

    def _fit(self, dataset_dict: dict[str, Any], quads: np.ndarray, keep: np.ndarray) -> _Target:
        """Return boxes, classes and flags of the kept objects with a size; counts the others."""
        annotations = dataset_dict["annotations"]
        classes = np.array([item["category_id"] for item in annotations], dtype=np.int64)
        difficult = np.array([item.get("difficult", 0) for item in annotations]) > 0
        if len(classes) and not 0 <= classes.min() <= classes.max() < self._num_classes:
            raise ValueError(
                f"{dataset_dict['file_name']}: expected category ids in [0, {self._num_classes}), "
                f"got {classes.min()}..{classes.max()}; set MODEL.ROTATED_HEAD.NUM_CLASSES to the "
                "data set's number of classes"
            )
        boxes = quads_to_boxes(torch.from_numpy(quads[keep].astype(np.float32)))
        classes, difficult = classes[keep], difficult[keep]
        sized = (boxes[:, 2:4] >= MIN_BOX_SIDE_PX).all(dim=1)
        num_flat = int((~sized).sum())
        if num_flat:
            self._counts[1] += num_flat
            if self.num_dropped_objects == num_flat:
                logger.warning(
                    "%s: %d objects without size left out (later ones are only counted)",
                    dataset_dict["file_name"],
                    num_flat,
                )
        return _Target(
            boxes[sized], torch.from_numpy(classes)[sized], torch.from_numpy(difficult)[sized]
        )

    def _count_skipped(self, error: Exception) -> None:
        self._counts[0] += 1
        count = self.num_skipped_images
        if count <= _NUM_LOGGED_SINGLY or count % _LOG_EVERY == 0:
            logger.warning("unreadable image skipped (%d so far): %s", count, error)

    def _map_another(self, bad: dict[str, Any]) -> dict[str, Any] | None:
        """Map another image: the last good one, or one of the data set while there is none.

        Detectron2's own answer to None is not relied on: version 0.6 draws from a set, which
        Python 3.11 and later refuse, and it goes on for ever when all images are bad.
        """
        candidates = [] if self._last_good is None else [self._last_good]
        if not candidates and self._load_alternatives is not None:
            everything = self._load_alternatives()
            order = np.random.permutation(len(everything))[:_MAX_REPLACEMENTS]  # noqa: NPY002
            candidates = [everything[index] for index in order]
        for candidate in candidates:
            if candidate["file_name"] == bad["file_name"]:
                continue
            try:
                mapped = self._map(candidate)
            except (OSError, BadImageError) as error:
                self._count_skipped(error)
                continue
            self._last_good = candidate
            return mapped
        if candidates:
            raise RuntimeError(
                f"{self.num_skipped_images} unreadable images and none that could be read in their "
                f"place (the last: {bad['file_name']}); check the data set's folder"
            )
        return None


def _load_datasets(names: Sequence[str]) -> list[dict[str, Any]]:
    return [item for name in names for item in DatasetCatalog.get(name)]


def _check_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    height, width = image.shape[:2]
    expected = (dataset_dict.get("height", height), dataset_dict.get("width", width))
    if expected != (height, width):
        raise BadImageError(
            f"{dataset_dict['file_name']}: expected (height, width) {expected} as the data set "
            f"says, got {(height, width)}; the file was changed after it was registered or split"
        )


def _quads_of(dataset_dict: dict[str, Any]) -> np.ndarray:
    """Return the corners (M, 4, 2) float64 of all annotations."""
    annotations = dataset_dict.get("annotations")
    if annotations is None:
        raise ValueError(
            f"{dataset_dict['file_name']}: expected annotations in training, got a data set "
            "without labels; register it with its label folder"
        )
    quads = np.array([item["quad"] for item in annotations], dtype=np.float64)
    return quads.reshape(-1, _NUM_CORNERS, 2)


def _centers_inside(quads: np.ndarray, size_hw: tuple[int, ...]) -> np.ndarray:
    """Return (M,) bool: the mean of the corners lies in the image."""
    centers = quads.mean(axis=1)
    height, width = size_hw
    return ((centers >= 0) & (centers <= (width, height))).all(axis=1)


def _to_instances(target: _Target, size_hw: tuple[int, int]) -> Instances:
    instances = Instances(size_hw)
    instances.gt_boxes = RotatedBoxes(target.boxes)
    instances.gt_classes = target.classes
    instances.gt_difficult = target.difficult
    return instances
