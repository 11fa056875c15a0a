"""What TCM and each of its parts bring, with few and many labels, with and without a CLIP.

    python tools/benchmark.py effect                    # all runs, the most telling ones first
    python tools/benchmark.py effect --only "tcm/24 scenes/embedded CLIP"
    python tools/benchmark.py effect --table --plot effect.png      # of the runs that are there

Each run trains a small detector on scenes of the embedded data set and is scored on 24 others. A
run that is done is a row of --results and is not done again; a run that was interrupted goes on.
"spread" is the standard deviation over seeds. A difference from TCM that is smaller than twice its
standard error, from both spreads, is called "within the spread".
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tabulate import tabulate

from benchmarks._embedded_runs import evaluate, train_detector
from tcm_d2.cli.demo import make_data, run_step
from tcm_d2.files import write_bytes_atomically
from tcm_d2.modeling.clip.weights import EMBEDDED_FILE, EMBEDDED_NAME
from tcm_d2.synthetic.captions import DETECTOR_TEMPLATE

RANDOM_TEXT = "random class embeddings"
VARIANTS: dict[str, tuple[str, ...]] = {
    "tcm": (),
    "no TCM": (),
    RANDOM_TEXT: (),
    "no visual prompt": ("MODEL.TCM.VISUAL_PROMPT", "False"),
    "no text update": ("MODEL.TCM.TEXT_UPDATE", "False"),
    "no auxiliary loss": ("MODEL.TCM.AUX_LOSS_WEIGHT", "0.0"),
    "FastTCM": (),
}
# What might help where TCM brings little: not among the runs, but asked for with --remedies.
REMEDIES: dict[str, tuple[str, ...]] = {
    "context from words": ("MODEL.TCM.CONTEXT_WORDS", DETECTOR_TEMPLATE.removesuffix(" {label}")),
    "visual scale from 0.3": ("MODEL.TCM.VISUAL_SCALE_INIT", "0.3"),
    "text scale from 0.1": ("MODEL.TCM.TEXT_SCALE_INIT", "0.1"),
    "auxiliary loss x 4": ("MODEL.TCM.AUX_LOSS_WEIGHT", "4.0"),
    "image tower x 0.3": ("SOLVER.IMAGE_TOWER_LR_FACTOR", "0.3"),
}
_MODELS = {"no TCM": "fcos_no_tcm", "FastTCM": "tcm_fcos_fast"}
SCENES = (96, 24, 8)
CLIPS = {"embedded CLIP": EMBEDDED_NAME, "random weights": ""}
SEEDS = (1, 2, 3)
DATA_SEED, VAL_PATCHES, VAL_PX = 1, "val_whole", 512
MIN_SEEDS_TO_COMPARE = 2


class Run(NamedTuple):
    """One training."""

    variant: str
    num_scenes: int
    clip: str
    seed: int

    @property
    def group(self) -> str:
        """What runs of several seeds have in common."""
        return f"{self.variant}/{self.num_scenes} scenes/{self.clip}"

    @property
    def name(self) -> str:
        """What tells runs apart."""
        return f"{self.group}/seed {self.seed}"


def list_runs() -> list[Run]:
    """Return all runs, the most telling ones first."""

    def rank(run: Run) -> tuple[int, int, int]:
        is_main = run.variant in ("tcm", "no TCM")
        order = (24, 8, 96).index(run.num_scenes)
        if is_main and run.num_scenes != 96:
            return 0, order, run.seed
        if run.clip == "embedded CLIP" and run.num_scenes == 24:
            return 1, 0, run.seed
        return (2 if is_main else 3), order, run.seed

    every = (Run(*parts) for parts in itertools.product(VARIANTS, SCENES, CLIPS, SEEDS))
    # From random weights the class embeddings of "tcm" are random, too.
    kept = (run for run in every if CLIPS[run.clip] or run.variant != RANDOM_TEXT)
    return sorted(kept, key=rank)


def list_remedies() -> list[Run]:
    """Return the runs of remedies, seed by seed, with few labels."""
    every = itertools.product(SEEDS, REMEDIES)
    return [Run(remedy, 24, "embedded CLIP", seed) for seed, remedy in every]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--output", type=Path, default=Path("output/effect"))
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks/effect.json"))
    parser.add_argument("--iterations", type=int, default=160)
    parser.add_argument("--only", nargs="+", metavar="GROUP", help="runs whose names begin so")
    parser.add_argument("--remedies", action="store_true", help="these in place of the runs")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--plot", type=Path, help="picture to write")
    parser.add_argument("--keep", action="store_true", help="keep the folders of finished runs")


def run(args: argparse.Namespace) -> int:
    """Do the runs that are not done, print the table and return the exit status."""
    runs = list_remedies() if args.remedies else list_runs()
    chosen = [r for r in runs if not args.only or r.name.startswith(tuple(args.only))]
    if not chosen:
        print(f"--only: no such run; the first: {runs[0].name}", file=sys.stderr)
        return 2
    results = read_results(args.results, args.iterations)
    for one in () if args.table else chosen:
        if one.name not in results:
            results[one.name] = do_run(one, args)
            write_results(args.results, args.iterations, results)
            print(f"{one.name}: {results[one.name]}", flush=True)
    num_done = sum(one.name in results for one in list_runs())
    print(f"\n{num_done} of {len(list_runs())} runs, {args.iterations} iterations each\n")
    print(make_table(results))
    for clip in CLIPS:
        print(f"\n{clip}: {describe_pairs(results, clip)}")
    if args.plot:
        plot(results, args.plot)
    return 0


def read_results(path: Path, iterations: int) -> dict[str, dict[str, float]]:
    """Return the numbers of finished runs by name.

    Raises:
        ValueError: they are of another schedule.
    """
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["iterations"] != iterations:
        raise ValueError(
            f"'{path}': holds runs of {content['iterations']} iterations, not {iterations}; name "
            "another file with --results"
        )
    results: dict[str, dict[str, float]] = content["runs"]
    return results


def write_results(path: Path, iterations: int, results: dict[str, dict[str, float]]) -> None:
    """Write the numbers of finished runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"iterations": iterations, "runs": results}, indent=1)
    write_bytes_atomically(path, text.encode())


def do_run(one: Run, args: argparse.Namespace) -> dict[str, float]:
    """Train and score one detector."""
    data = args.output / f"data_{one.num_scenes}"
    if not (data / VAL_PATCHES / "complete").is_file():
        make_data(data, DATA_SEED, one.num_scenes)
        run_step(
            *("split", "--images", str(data / "val" / "images")),
            *("--labels", str(data / "val" / "labelTxt"), "--output", str(data / VAL_PATCHES)),
            *("--size", str(VAL_PX), "--gap", "0"),
        )
        (data / VAL_PATCHES / "complete").touch()
    began = time.perf_counter()
    run_dir = args.output / f"iterations_{args.iterations}" / one.name.replace(" ", "_")
    train_detector(
        run_dir,
        data,
        model=_MODELS.get(one.variant, "tcm_fcos"),
        iterations=args.iterations,
        seed=one.seed,
        overrides=overrides_of(one, args.output),
        val_patches=VAL_PATCHES,
    )
    by_iou = evaluate(run_dir, data).table.mean_ap_by_iou
    if not args.keep:
        shutil.rmtree(run_dir)
    return {
        "AP50": round(100 * by_iou[0.5], 2),
        "AP75": round(100 * by_iou[0.75], 2),
        "seconds": round(time.perf_counter() - began),
    }


def overrides_of(one: Run, folder: Path) -> list[str]:
    """Return the ``KEY VALUE`` pairs of a run."""
    weights = CLIPS[one.clip]
    if one.variant == RANDOM_TEXT:
        weights = str(folder / f"clip_random_text_{one.seed}.safetensors")
        write_random_text(Path(weights), one.seed)
    changes = {**VARIANTS, **REMEDIES}[one.variant]
    return ["MODEL.CLIP.WEIGHTS", weights, "TEST.DOTA.ANALYSIS", "none", *changes]


def write_random_text(path: Path, seed: int) -> None:
    """Write the embedded CLIP with another text tower: each tensor's numbers, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(EMBEDDED_FILE)
    for name, tensor in tensors.items():
        if not name.startswith("visual.") and tensor.is_floating_point():
            order = torch.randperm(tensor.numel(), generator=generator)
            tensors[name] = tensor.flatten()[order].view_as(tensor).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def group_results(results: dict[str, dict[str, float]], metric: str) -> dict[str, np.ndarray]:
    """Return the values of all seeds by group."""
    groups: dict[str, list[float]] = defaultdict(list)
    for name, numbers in results.items():
        groups[name.rpartition("/")[0]].append(numbers[metric])
    return {group: np.array(values) for group, values in groups.items()}


def make_table(results: dict[str, dict[str, float]]) -> str:
    """Return means and spreads, and differences from TCM."""
    metrics = ("AP50", "AP75")
    values = {metric: group_results(results, metric) for metric in metrics}
    rows = []
    for clip, scenes, variant in itertools.product(CLIPS, SCENES, {**VARIANTS, **REMEDIES}):
        group = f"{variant}/{scenes} scenes/{clip}"
        if group not in values["AP50"]:
            continue
        row = [clip, scenes, variant, len(values["AP50"][group])]
        for metric in metrics:
            ours, tcm = values[metric][group], values[metric].get(f"tcm/{scenes} scenes/{clip}")
            row += [text_of(ours), "" if variant == "tcm" else compare(ours, tcm)]
        rows.append(row)
    header = ["start", "scenes", "detector", "seeds", "AP50", "minus TCM", "AP75", "minus TCM"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def describe_pairs(results: dict[str, dict[str, float]], clip: str) -> str:
    """Return the mean AP50 that TCM brings over pairs of runs with the same scenes and seed."""
    differences = [
        results[mine]["AP50"] - results[other]["AP50"]
        for scenes, seed in itertools.product(SCENES, SEEDS)
        if (mine := Run("tcm", scenes, clip, seed).name) in results
        and (other := Run("no TCM", scenes, clip, seed).name) in results
    ]
    if len(differences) < MIN_SEEDS_TO_COMPARE:
        return "too few pairs with and without TCM"
    error = np.std(differences, ddof=1) / math.sqrt(len(differences))
    return (
        f"TCM minus no TCM {np.mean(differences):+.1f} AP50, standard error {error:.1f}, over "
        f"{len(differences)} pairs, {sum(d > 0 for d in differences)} of them positive"
    )


def text_of(values: np.ndarray) -> str:
    """Return the mean, and the spread where there are several values."""
    spread = f" +- {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}"


def compare(values: np.ndarray, others: np.ndarray | None) -> str:
    """Return the difference of means, and whether it is more than the spreads explain."""
    if others is None or min(len(values), len(others)) < MIN_SEEDS_TO_COMPARE:
        return "-"
    difference = values.mean() - others.mean()
    error = math.sqrt(sum(v.var(ddof=1) / len(v) for v in (values, others)))
    return f"{difference:+.1f}" + ("" if abs(difference) > 2 * error else " (within the spread)")


def plot(results: dict[str, dict[str, float]], path: Path) -> None:
    """Write AP50 over the number of scenes, a panel for each start, a line for each detector."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    values = group_results(results, "AP50")
    figure, axes = plt.subplots(1, len(CLIPS), figsize=(10, 4.2), sharey=True)
    for axis, clip in zip(axes, CLIPS, strict=True):
        for number, variant in enumerate(VARIANTS):
            points = [
                (scenes, values[group])
                for scenes in sorted(SCENES)
                if (group := f"{variant}/{scenes} scenes/{clip}") in values
            ]
            if points:
                places = [scenes * 1.03 ** (number - 3) for scenes, _ in points]
                means = [found.mean() for _, found in points]
                spreads = [found.std(ddof=1) if len(found) > 1 else 0.0 for _, found in points]
                style = {"marker": "o", "capsize": 2, "color": f"C{number}"}
                axis.errorbar(places, means, spreads, label=variant, **style)
        axis.set(title=clip, xlabel="scenes to train on", xscale="log")
        axis.set_xticks(SCENES, [str(scenes) for scenes in SCENES])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("AP50")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
