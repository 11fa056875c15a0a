#!/usr/bin/env python3
"""Pre-train the embedded CLIP on rendered scenes and captions, and write its file.

Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

import torch

from tcm_d2.engine.clip_pretraining import SmallCLIP, token_ids, train
from tcm_d2.files import write_bytes_atomically
from tcm_d2.modeling.clip.weights import EMBEDDED_FILE
from tcm_d2.synthetic.captioned_crops import CropSampler, make_scenes, read_scenes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/clip"))
    parser.add_argument("--num-scenes", type=int, default=1200)
    parser.add_argument("--iterations", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--num-workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--file", type=Path, default=EMBEDDED_FILE, help="to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    folder = args.output / f"scenes_seed{args.seed}"
    began = time.perf_counter()
    for done in make_scenes(
        folder,
        num_scenes=args.num_scenes,
        seed=args.seed,
        split_index=0,
        num_workers=args.num_workers,
    ):
        if done % 100 == 0 or done == args.num_scenes:
            seconds = time.perf_counter() - began
            print(f"{done} of {args.num_scenes} scenes ({seconds:.0f} s)", flush=True)
    torch.manual_seed(args.seed)
    scenes = read_scenes(folder, args.num_scenes)
    model = SmallCLIP(token_ids(scenes))
    try:
        train(
            model,
            CropSampler(scenes),
            args.output / "checkpoint.pth",
            num_iterations=args.iterations,
            seed=args.seed,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    content = model.file_content()
    write_bytes_atomically(args.file, content)
    print(f"{args.file}: {len(content) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
