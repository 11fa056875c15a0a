#!/usr/bin/env python3
"""Train for a few iterations with 1 process and with 2, and compare their losses.

  tools/compare_processes.py
  tools/compare_processes.py --models tcm_atss --norms SyncBN --iterations 20
  tools/compare_processes.py --models tcm_fcos --patch-dir datasets/DOTA/split/train

Both see the same batches, and losses are averaged over all objects and pixels of a batch, so they
differ by rounding only, which grows with the iterations; --float64 shows it. The tables come as
Markdown, the numbers under --output as JSON too. Without --patch-dir a small data set is made.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

# Read by OpenMP when torch is loaded: idle threads sleep. Spinning ones make CPU training ten times
# slower as soon as anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from detectron2.utils import comm

from tcm_d2.config.run import open_config
from tcm_d2.data.dota.split import SplitConfig, SplitSource, split_dataset
from tcm_d2.engine.build_experiment import build_experiment
from tcm_d2.engine.launch import launch
from tcm_d2.engine.loop import train
from tcm_d2.engine.seeding import use_deterministic_algorithms
from tcm_d2.synthetic import SyntheticConfig, make_synthetic_dota

CONFIGS_DIR = Path(__file__).resolve().parents[1] / "configs"
MODELS = ("tcm_fcos", "tcm_atss", "tcm_retinanet")
NUM_PROCESSES = (1, 2)
DATASET_NAME = "compare_processes"
# The data set that is made: images, their side in pixels, and the side of the patches.
NUM_IMAGES, IMAGE_SIZE_PX, PATCH_SIZE_PX = 6, 256, 128


class Job(NamedTuple):
    """One model to train, in both runs.

    Attributes:
        model: as given.
        norm: of the image tower.
        config_file: of the model.
        folder: for the output.
        overrides: KEY VALUE pairs.
        in_float64: train in double precision.
    """

    model: str
    norm: str
    config_file: str
    folder: str
    overrides: list[str]
    in_float64: bool


class Comparison(NamedTuple):
    """Losses of one model in both runs.

    Attributes:
        model: stem of the configuration, as given.
        norm: of the image tower.
        losses: total loss by iteration, of one process and of two.
    """

    model: str
    norm: str
    losses: tuple[list[float], list[float]]

    @property
    def differences(self) -> list[float]:
        """Relative difference of the two losses, by iteration."""
        return [abs(b - a) / abs(a) for a, b in zip(*self.losses, strict=True)]

    def as_table(self, batch_size: int) -> str:
        """Return the numbers as a Markdown table under a heading."""
        lines = [
            f"### {self.model}, {self.norm}",
            "",
            f"| iteration | 1 x {batch_size} | 2 x {batch_size // 2} | relative difference |",
            "|---|---|---|---|",
        ]
        rows = zip(*self.losses, self.differences, strict=True)
        lines += [f"| {i} | {a:.6f} | {b:.6f} | {d:.1e} |" for i, (a, b, d) in enumerate(rows)]
        return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        comparisons = compare(args)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for comparison in comparisons:
        print(comparison.as_table(args.batch_size))
    print("| model | norm | largest relative difference |\n|---|---|---|")
    for comparison in comparisons:
        print(f"| {comparison.model} | {comparison.norm} | {max(comparison.differences):.1e} |")
    numbers = [comparison._asdict() for comparison in comparisons]
    (args.output / "losses.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", default=MODELS, help="stems of configs/embedded_*.yaml (all three)"
    )
    parser.add_argument(
        "--norms",
        nargs="+",
        default=("FrozenBN", "SyncBN"),
        choices=("FrozenBN", "SyncBN"),
        help="MODEL.CLIP.NORM; plain BN takes the statistics of each process and cannot agree",
    )
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument(
        "--float64", action="store_true", help="train in float64: what then differs is no rounding"
    )
    parser.add_argument("--batch-size", type=int, default=4, help="in all processes together")
    parser.add_argument("--patch-dir", type=Path, help="folder made by split_dota.py, DOTA classes")
    parser.add_argument("--output", type=Path, default=Path("output/compare_processes"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE overrides, last"
    )
    return parser.parse_args(argv)


def compare(args: argparse.Namespace) -> list[Comparison]:
    """Run every model and norm with each number of processes."""
    jobs = make_jobs(args)
    patch_dir = args.patch_dir or make_patches(args.output / "data", args.seed)
    return run_and_compare(jobs, patch_dir)


def make_jobs(args: argparse.Namespace) -> list[Job]:
    """Return one job for each model and norm."""
    return [
        Job(
            model,
            norm,
            str(_config_of(model)),
            str(args.output / f"{model}_{norm}"),
            _overrides(args, norm),
            args.float64,
        )
        for model in args.models
        for norm in args.norms
    ]


def run_and_compare(jobs: list[Job], patch_dir: Path) -> list[Comparison]:
    """Train every job with each number of processes."""
    device = open_config(jobs[0].config_file, jobs[0].overrides).device
    for num_processes in NUM_PROCESSES:
        launch(
            run_jobs,
            num_processes,
            args=(jobs, str(patch_dir)),
            use_cuda=device.type == "cuda",
        )
    return [Comparison(job.model, job.norm, (_losses(job, 1), _losses(job, 2))) for job in jobs]


def make_patches(data_dir: Path, seed: int) -> Path:
    """Render a few images of the embedded data set and split them, unless they are there."""
    patch_dir = data_dir / "patches"
    if not (patch_dir / "manifest.jsonl").is_file():
        make_synthetic_dota(
            data_dir,
            num_train=NUM_IMAGES,
            num_val=0,
            image_size_px=IMAGE_SIZE_PX,
            seed=seed,
            config=SyntheticConfig.easy(image_size_px=IMAGE_SIZE_PX),
            num_workers=1,
        )
        split_dataset(
            [SplitSource(data_dir / "train/images", data_dir / "train/labelTxt")],
            patch_dir,
            config=SplitConfig(patch_size_px=PATCH_SIZE_PX, gap_px=0),
            classes=None,
            num_workers=1,
            show_progress=False,
        )
    return patch_dir


def run_jobs(jobs: list[Job], patch_dir: str) -> None:
    """Train every job in this process, one of those started."""
    use_deterministic_algorithms()
    for job in jobs:
        output_dir = Path(job.folder, str(comm.get_world_size()))
        places = ["DATASETS.PATCH_DIRS", repr([f"{DATASET_NAME}={patch_dir}"])]
        run = open_config(job.config_file, [*job.overrides, *places, "OUTPUT_DIR", str(output_dir)])
        experiment = build_experiment(run, for_training=True)
        _switch_on_residual_branches(experiment.model)
        if job.in_float64:
            experiment.model.double()
        train(experiment, resume=False, overwrite=True)


@torch.no_grad()
def _switch_on_residual_branches(model: torch.nn.Module) -> None:
    """Fill the norms that a randomly initialised CLIP tower starts with at zero.

    FrozenBN would leave them there, and most of the tower without a gradient.
    """
    for module in model.modules():
        if "BatchNorm" in type(module).__name__ and not module.weight.any():
            module.weight.fill_(0.5)


def _config_of(model: str) -> Path:
    path = CONFIGS_DIR / f"embedded_{model}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem[9:] for p in CONFIGS_DIR.glob("embedded_*.yaml")))
        raise ValueError(f"--models: no embedded configuration for {model!r}; known: {known}")
    return path


def _overrides(args: argparse.Namespace, norm: str) -> list[str]:
    settings: dict[str, Any] = {
        "DATASETS.TRAIN": (DATASET_NAME,),
        "DATASETS.TEST": (),
        "DATALOADER.NUM_WORKERS": 0,
        "MODEL.CLIP.WEIGHTS": "",
        "MODEL.CLIP.NORM": norm,
        # Sums less exactly on the CPU.
        "MODEL.CHANNELS_LAST": False,
        # Drawn per process.
        "MODEL.TCM.DECODER_DROPOUT": 0.0,
        "SOLVER.IMS_PER_BATCH": args.batch_size,
        "SOLVER.MAX_EPOCHS": 0,
        "SOLVER.MAX_ITER": args.iterations,
        "SOLVER.STEPS": (),
        "LOG_PERIOD": 1,
        "SEED": args.seed,
    }
    pairs = [text for key, value in settings.items() for text in (key, str(value))]
    return [*pairs, *args.opts]


def _losses(job: Job, num_processes: int) -> list[float]:
    path = Path(job.folder, str(num_processes), "metrics.json")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["total_loss"] for row in rows]


if __name__ == "__main__":
    sys.exit(main())
