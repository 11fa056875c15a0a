"""The command tcm-d2 draw-data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng

from tcm_d2.config import get_tcm_config, load_config
from tcm_d2.data.annotations import NO_OBJECTS, objects_of
from tcm_d2.data.dota.loading import load_dota_images, load_dota_split
from tcm_d2.data.images import read_image
from tcm_d2.data.mapper import RotatedDatasetMapper
from tcm_d2.data.public_sets import register_public_sets
from tcm_d2.packaged_configs import locate_config
from tcm_d2.structures.conversions import quads_to_boxes
from tcm_d2.visualize.draw import draw_boxes


def load_dicts(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the data set's dicts and its class names."""
    if args.dataset:
        register_public_sets()
        return DatasetCatalog.get(args.dataset), MetadataCatalog.get(args.dataset).thing_classes
    if args.patch_dir:
        return load_dota_split(args.patch_dir, args.classes, on_error=args.on_error), args.classes
    dicts = load_dota_images(args.images, args.labels, args.classes, on_error=args.on_error)
    return dicts, args.classes


def draw_annotations(
    dicts: Sequence[dict[str, Any]], class_names: Sequence[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, picture) of the boxes fitted to the annotations."""
    for item in dicts:
        objects = objects_of(item) if "annotations" in item else NO_OBJECTS
        image = read_image(item["file_name"], channel_order="RGB")
        boxes = quads_to_boxes(torch.from_numpy(objects.quads.astype(np.float32)))
        labels = torch.from_numpy(objects.class_ids)
        yield (
            item["image_id"],
            draw_boxes(image, boxes, labels=labels, class_names=class_names),
        )


def draw_loaded(
    dicts: Sequence[dict[str, Any]],
    class_names: Sequence[str],
    cfg: CfgNode,
    *,
    shade_class_masks: bool,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, picture) of what the training mapper gives: augmented image and boxes."""
    mapper = RotatedDatasetMapper(cfg, True)
    for item in dicts:
        mapped = mapper(item)
        if mapped is None:
            continue
        image = mapped["image"].permute(1, 2, 0).numpy()
        if cfg.INPUT.FORMAT == "BGR":
            image = image[:, :, ::-1]
        image = np.ascontiguousarray(image)
        if shade_class_masks and "class_masks" in mapped:
            covered = mapped["class_masks"].any(dim=0).numpy().astype(np.uint8)
            size_wh = image.shape[1::-1]
            covered = cv2.resize(covered, size_wh, interpolation=cv2.INTER_NEAREST) > 0
            image[~covered] //= 2
        instances = mapped["instances"]
        yield (
            f"{mapped['image_id']}_loaded",
            draw_boxes(
                image,
                instances.gt_boxes.tensor,
                labels=instances.gt_classes,
                class_names=class_names,
            ),
        )


def run(args: argparse.Namespace) -> int:
    """Run the command line and return its exit status."""
    try:
        dicts, class_names = load_dicts(args)
        seed_all_rng(args.seed)
        order = np.random.default_rng(args.seed).permutation(len(dicts))[: args.num]
        chosen = [dicts[index] for index in order]
        if args.source == "annotations":
            pictures = draw_annotations(chosen, class_names)
        else:
            named = args.config_file
            cfg = load_config(locate_config(named)) if named else get_tcm_config()
            cfg.defrost()
            cfg.MODEL.ROTATED_HEAD.NUM_CLASSES = len(class_names)
            pictures = draw_loaded(chosen, class_names, cfg, shade_class_masks=args.class_masks)
        args.output.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures:
            path = args.output / f"{name}.png"
            if not cv2.imwrite(str(path), picture[:, :, ::-1]):
                raise OSError(f"{path}: could not be written")
            print(path)
    except (ValueError, OSError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
