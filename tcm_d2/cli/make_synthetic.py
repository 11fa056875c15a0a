"""The command tcm-d2 make-synthetic."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.synthetic import SyntheticConfig, SyntheticSummary, make_synthetic_dota


class Preset(NamedTuple):
    """Sizes of a data set, and the settings it is drawn with."""

    num_train: int
    num_val: int
    image_size_px: int
    make_config: Callable[..., SyntheticConfig]


PRESETS = {
    "demo": Preset(96, 24, 512, SyntheticConfig.easy),
    "dota": Preset(120, 36, 1024, SyntheticConfig),
    "photo": Preset(400, 40, 384, SyntheticConfig.photo),
    "landmarks": Preset(400, 40, 384, SyntheticConfig.landmarks),
}


def run(args: argparse.Namespace) -> int:
    """Run the command line; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    start = time.perf_counter()
    try:
        preset = PRESETS[args.preset]
        image_size_px = preset.image_size_px if args.image_size is None else args.image_size
        config = preset.make_config(image_size_px=image_size_px)
        summary = make_synthetic_dota(
            args.output,
            num_train=preset.num_train if args.num_train is None else args.num_train,
            num_val=preset.num_val if args.num_val is None else args.num_val,
            image_size_px=image_size_px,
            seed=args.seed,
            config=config,
            objects_scale=args.objects_scale,
            classes=args.classes,
            num_workers=args.num_workers,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print_summary(summary, seconds=time.perf_counter() - start)
    return 0


def _print_summary(summary: SyntheticSummary, *, seconds: float) -> None:
    print(f"{'class':<20}{'train':>8}{'val':>8}")
    for name in DOTA_V1_CLASSES:
        counts = [summary.num_objects[split][name] for split in ("train", "val")]
        if any(counts):
            print(f"{name:<20}{counts[0]:>8}{counts[1]:>8}")
    totals = [sum(summary.num_objects[split].values()) for split in ("train", "val")]
    print(f"{'objects':<20}{totals[0]:>8}{totals[1]:>8}")
    difficult = summary.num_difficult
    print(f"{'(difficult)':<20}{difficult['train']:>8}{difficult['val']:>8}")
    print(f"{'images':<20}{summary.num_images['train']:>8}{summary.num_images['val']:>8}")
    print(f"written to {summary.root} in {seconds:.1f} s")
