"""Time what the text side costs at inference: TCM, FastTCM, kept text features, constants.

    python tools/benchmark.py fast_tcm [--size 1024] [--repeats 5] [--threads 2] [--device cpu]

Every variant runs the dense part (image -> raw head outputs) of the full-size detector on the same
image; rounds go through all variants in turn, so that a busy machine slows all of them. R is one
pass of torchvision's ResNet-50 in the same rounds. Weights are random: no time depends on them.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torchvision.models import resnet50

from tcm_d2.config.run import open_config

CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"
PEER = "R: ResNet-50 of torchvision"
BASELINE = "TCM (prompt generator none), text kept"


class Variant(NamedTuple):
    """A way to run a detector.

    Attributes:
        run: one image.
        model: for its parameters; None for the peer.
    """

    run: Callable[[], object]
    model: nn.Module | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this suite's options."""
    parser.add_argument("--head", choices=["fcos", "atss", "retinanet"], default="fcos")
    parser.add_argument("--size", type=int, default=1024, help="image side in pixels")
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the first")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times, too")


def run(args: argparse.Namespace) -> int:
    """Print the table and return 0."""
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    image = torch.randn(1, 3, args.size, args.size, device=device)
    variants = make_variants(args.head, image)
    times = measure({name: v.run for name, v in variants.items()}, device, args.repeats)
    best = {name: min(values) for name, values in times.items()}
    rows = []
    for name, variant in variants.items():
        model = variant.model
        millions = (
            "" if model is None else f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"
        )
        rows.append(
            (
                name,
                f"{1e3 * best[name]:.0f}",
                f"{1e3 * statistics.median(times[name]):.0f}",
                f"{best[name] / best[PEER]:.2f}",
                f"{best[name] / best[BASELINE]:.2f}",
                millions,
            )
        )
    header = ["variant", "best ms", "median ms", "R", "of TCM", "M parameters"]
    print(f"{args.head}, {args.size} x {args.size} px, {args.threads} threads, {device}\n")
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))
    kept = variants[BASELINE].model
    print(f"\nasking whether the kept text is still valid: {lookup_us(kept):.0f} us")
    if args.json:
        args.json.write_text(json.dumps(times, indent=1))
    return 0


def make_variants(head: str, image: Tensor) -> dict[str, Variant]:
    """Return the variants by name, the peer first."""
    build = {
        "none": [],
        "fast": ["MODEL.TCM.PROMPT_GENERATOR", "meta", "MODEL.TCM.BIMODAL_MATCHING", "True"],
        "image": ["MODEL.TCM.PROMPT_GENERATOR", "image"],
        "off": ["MODEL.TCM.ENABLED", "False"],
    }
    plain, fast, per_image, without = (
        open_config(CONFIG_DIR / f"tcm_{head}.yaml", keys).build_model(device=image.device).eval()
        for keys in build.values()
    )
    fixed = copy.deepcopy(fast)
    fixed.fix_text()
    peer = resnet50().to(image.device).eval()

    def anew(model: nn.Module) -> Callable[[], object]:
        def compute() -> object:
            model._kept_text.forget()  # and nothing else that is kept
            return dense(model, image)

        return compute

    return {
        PEER: Variant(lambda: peer(image), None),
        "without TCM": Variant(lambda: dense(without, image), without),
        BASELINE: Variant(lambda: dense(plain, image), plain),
        "TCM, text computed for every image": Variant(anew(plain), plain),
        "TCM with prompts from the image (CVPR paper)": Variant(
            lambda: dense(per_image, image), per_image
        ),
        "FastTCM, text kept": Variant(lambda: dense(fast, image), fast),
        "FastTCM, text computed for every image": Variant(anew(fast), fast),
        "FastTCM, saved --for-inference": Variant(lambda: dense(fixed, image), fixed),
    }


def dense(model: nn.Module, image: Tensor) -> object:
    """Return the raw outputs of the head for one image."""
    return model.head(model.features(image)[0])


@torch.no_grad()
def measure(
    runs: dict[str, Callable[[], object]], device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Return the seconds of each run in each round; the first round warms up and is left out."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, function in runs.items():
            _wait(device)
            start = time.perf_counter()
            function()
            _wait(device)
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times


@torch.no_grad()
def lookup_us(model: nn.Module) -> float:
    """Return the microseconds of a look-up of kept class embeddings, the best of several."""
    model.class_embeddings()
    return 1e6 * min(_seconds(model.class_embeddings) for _ in range(50))


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
