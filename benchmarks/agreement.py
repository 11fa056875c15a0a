"""Do faster kernels and bfloat16 find the same boxes? The shipped detector on rendered scenes.

    python tools/benchmark.py agreement
    python tools/benchmark.py agreement --weights output/demo/tcm_fcos

Each variant is compared with float32 by torch alone. A detection has its like if one of the
other side has the same class, all corners within --corner-px and a score within --score.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcm_d2 import Detector
from tcm_d2.cpu import accelerate, restore
from tcm_d2.inference.bundled import DEFAULT_NAME
from tcm_d2.structures.conversions import boxes_to_quads
from tcm_d2.synthetic.config import SyntheticConfig
from tcm_d2.synthetic.render import render_image

# Held-out scenes, as those of the demo: of another split than training's.
SPLIT_INDEX = 1
SEED = 1
# Detections near the score threshold come and go with any rounding.
FIRM_MARGIN = 0.05


class Found(NamedTuple):
    """Detections of an image: corners (D, 4, 2), scores (D,), classes (D,)."""

    quads: Tensor
    scores: Tensor
    classes: Tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--weights", default=DEFAULT_NAME, help="what Detector takes")
    parser.add_argument("--num-scenes", type=int, default=24)
    parser.add_argument("--side-px", type=int, default=512)
    parser.add_argument("--score-threshold", type=float, default=0.05)
    parser.add_argument("--corner-px", type=float, default=0.5)
    parser.add_argument("--score", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=2)


def run(args: argparse.Namespace) -> int:
    """Run the suite, print its table and return the exit status."""
    torch.set_num_threads(args.threads)
    detector = Detector.from_pretrained(
        args.weights, device="cpu", score_threshold=args.score_threshold
    )
    config = SyntheticConfig.easy(image_size_px=args.side_px)
    images = [
        render_image(config, seed=SEED, split_index=SPLIT_INDEX, image_index=i).image
        for i in range(args.num_scenes)
    ]
    restore(detector.model)
    expected = [find(detector, image, None) for image in images]
    plain_half = [find(detector, image, torch.bfloat16) for image in images]
    accelerate(detector.model)
    firm = args.score_threshold + FIRM_MARGIN
    print(f"{sum(len(found.scores) for found in expected)} detections in {len(images)} scenes")
    print(f"{'':28} with their like   those above {firm:g}")
    variants = {"float32": None, "bfloat16": torch.bfloat16}
    for name, dtype in variants.items():
        report(name, expected, [find(detector, image, dtype) for image in images], args, firm)
    report("bfloat16, torch alone", expected, plain_half, args, firm)
    return 0


def find(detector: Detector, image: NDArray[np.uint8], dtype: torch.dtype | None) -> Found:
    """Detect in an image, under autocast if a dtype is given."""
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        found = detector.detect_windows([image])[0]
    boxes, scores = torch.from_numpy(found.boxes), torch.from_numpy(found.scores)
    classes = torch.from_numpy(found.class_ids)
    is_wanted = scores >= detector.config.score_threshold
    return Found(boxes_to_quads(boxes[is_wanted]), scores[is_wanted], classes[is_wanted])


def report(
    name: str, expected: list[Found], actual: list[Found], args: argparse.Namespace, firm: float
) -> None:
    """Print the share of detections of either side that have their like."""
    likes, firm_likes = [], []
    for one, other in zip(expected, actual, strict=True):
        for here, there in ((one, other), (other, one)):
            has_like = like(here, there, args.corner_px, args.score)
            likes.append(has_like)
            firm_likes.append(has_like[here.scores > firm])
    shares = [100 * torch.cat(flags).double().mean().item() for flags in (likes, firm_likes)]
    print(f"{name:28} {shares[0]:10.2f}%       {shares[1]:10.2f}%")


def like(here: Found, there: Found, corner_px: float, score: float) -> Tensor:
    """Return for each detection here whether there is one like it there: (D,) bool."""
    turned = torch.stack([there.quads.roll(shift, dims=1) for shift in range(4)])  # (4, E, 4, 2)
    distance = (here.quads[:, None, None] - turned.transpose(0, 1)).abs().amax((-1, -2))
    is_close = distance.amin(-1) <= corner_px
    is_close &= (here.scores[:, None] - there.scores).abs() <= score
    return (is_close & (here.classes[:, None] == there.classes)).any(1)
