"""Turn a data set dict into what the model reads: an image tensor and fitted boxes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances, RotatedBoxes
from torch import Tensor

from tcm_d2.config.nodes import configurable_with_nodes
from tcm_d2.config.registries import PART_REGISTRY
from tcm_d2.data.annotations import NO_OBJECTS, DictObjects, objects_of, whole_image_keys
from tcm_d2.data.augmentation import PointAugmentation, apply_augmentations, augmentation_nodes
from tcm_d2.data.images import BadImageError, read_image
from tcm_d2.structures.conversions import quads_to_boxes
from tcm_d2.structures.masks import boxes_to_class_masks

logger = logging.getLogger(__name__)

# A box thinner than this after augmentation has no use as a target and no stable angle.
MIN_BOX_SIDE_PX = 1e-3
# The first complaints are logged one by one, later ones every so often.
_NUM_LOGGED_SINGLY = 10
_LOG_EVERY = 100
_NUM_CORNERS = 4
_NUM_CHANNELS = 3


class _Target(NamedTuple):
    boxes: Tensor  # (M, 5)
    classes: Tensor  # (M,)
    difficult: Tensor  # (M,)


@PART_REGISTRY.register()
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

    Annotations may have Detectron2's form, see `objects_of`; groups (``iscrowd``) are left out in
    training, as Detectron2 does. A dict without ``source_image_id`` is a whole image.

    Objects whose centre an augmentation moves out of the image are dropped, and so are boxes
    without size (counted in ``num_dropped_objects``). Randomness comes from NumPy's global state,
    which Detectron2 seeds per worker.
    """

    @configurable_with_nodes
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
    ) -> None:
        """Keep the choices; ``RotatedDatasetMapper(cfg, is_train)`` reads them from a config.

        Args:
            on_bad_image: in training, "skip" gives None for an unreadable image, counts and logs
                it; the stream of samples takes another one. At test time it is always an error.
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
        # In shared memory, so that forked loader workers add to the same counts.
        self._counts = torch.zeros(2, dtype=torch.int64).share_memory_()

    @property
    def image_format(self) -> str:
        """Order of the channels of the images it gives, "RGB" or "BGR"."""
        return self._image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool) -> dict[str, Any]:
        """Return the constructor's arguments for a configuration; augmentations as nodes."""
        return {
            "is_train": is_train,
            "augmentations": augmentation_nodes(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.ROTATED_HEAD.NUM_CLASSES,
            "with_class_masks": is_train and cfg.MODEL.TCM.ENABLED,
            "mask_stride_px": cfg.MODEL.TCM.AUX_STRIDE_PX,
            "on_bad_image": cfg.INPUT.ON_BAD_IMAGE,
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
        """
        try:
            return self._map(dataset_dict)
        except (OSError, BadImageError) as error:
            if not self._skip_bad:
                raise
            self._count_skipped(error)
            return None

    def _map(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        file_name = dataset_dict["file_name"]
        image = read_image(file_name, channel_order=self._image_format)
        _check_size(dataset_dict, image)
        objects = objects_of(dataset_dict) if self._is_train else NO_OBJECTS
        quads = objects.quads
        rng = np.random.default_rng(np.random.randint(2**31, size=4))  # noqa: NPY002
        moved = apply_augmentations(self._augmentations, image, quads.reshape(-1, 2), rng)
        mapped = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        mapped["height"], mapped["width"] = image.shape[:2]
        if "source_image_id" not in mapped:
            mapped |= whole_image_keys(mapped.get("image_id", file_name))
        chw = np.empty((_NUM_CHANNELS, *moved.image.shape[:2]), dtype=np.uint8)
        cv2.split(moved.image, list(chw))  # seven times as fast as NumPy's strided copy
        mapped["image"] = torch.from_numpy(chw)  # (3, H, W)
        if self._is_train:
            size_hw = (int(chw.shape[1]), int(chw.shape[2]))
            stayed = _centers_inside(moved.points.reshape(-1, _NUM_CORNERS, 2), size_hw)
            # Objects cut by the patch border may have had their centre outside from the start.
            stayed |= ~_centers_inside(quads, image.shape[:2])
            moved_objects = objects._replace(quads=moved.points.reshape(quads.shape))
            target = self._fit(moved_objects, stayed & ~objects.crowd, dataset_dict["file_name"])
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

    def _fit(self, objects: DictObjects, keep: np.ndarray, file_name: str) -> _Target:
        """Return boxes, classes and flags of the kept objects with a size; counts the others."""
        classes = objects.class_ids
        if len(classes) and not 0 <= classes.min() <= classes.max() < self._num_classes:
            raise ValueError(
                f"{file_name}: expected category ids in [0, {self._num_classes}), "
                f"got {classes.min()}..{classes.max()}; set MODEL.ROTATED_HEAD.NUM_CLASSES to the "
                "data set's number of classes"
            )
        boxes = quads_to_boxes(torch.from_numpy(objects.quads[keep].astype(np.float32)))
        classes, difficult = classes[keep], objects.difficult[keep]
        sized = (boxes[:, 2:4] >= MIN_BOX_SIDE_PX).all(dim=1)
        num_flat = int((~sized).sum())
        if num_flat:
            self._counts[1] += num_flat
            if self.num_dropped_objects == num_flat:
                logger.warning(
                    "%s: %d objects without size left out (later ones are only counted)",
                    file_name,
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


def _check_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    height, width = image.shape[:2]
    expected = (dataset_dict.get("height", height), dataset_dict.get("width", width))
    if expected != (height, width):
        raise BadImageError(
            f"{dataset_dict['file_name']}: expected (height, width) {expected} as the data set "
            f"says, got {(height, width)}; the file was changed after it was registered or split"
        )


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
