"""Train on from a detector of other classes, and from random weights: AP after a few iterations.

    python tools/benchmark.py fine_tune          # goes on where it stopped

A small FCOS on a ResNet-50 learns the 15 classes of the embedded data set; it stands for a
published detector. Then five classes are learnt from a few scenes of another seed, once from its
weights (all but the class predictor) and once from random ones, by the recipe of
docs/published_detectors.md: same pictures, order and learning rate.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from tabulate import tabulate

from tcm_d2.cli.demo import PATCHES_PX, make_data
from tcm_d2.packaged_configs import config_folder

CLASSES = ("plane", "ship", "small-vehicle", "storage-tank", "tennis-court")
# configs/fcos_r50.yaml, narrow and without frozen layers: it starts from random weights.
SMALL = """
    MODEL.BACKBONE.FREEZE_AT 0 MODEL.RESNETS.NORM BN MODEL.RESNETS.STEM_OUT_CHANNELS 16
    MODEL.RESNETS.RES2_OUT_CHANNELS 32 MODEL.RESNETS.WIDTH_PER_GROUP 8
    MODEL.ROTATED_FPN.OUT_CHANNELS 64 MODEL.ROTATED_HEAD.CHANNELS 64
    MODEL.ROTATED_HEAD.NUM_CONVS 2 MODEL.ROTATED_HEAD.DISTANCE_BIAS_INIT 2.0
    DATALOADER.NUM_WORKERS 1 SOLVER.IMS_PER_BATCH 4 SOLVER.OPTIMIZER ADAMW SOLVER.BASE_LR 0.0006
    SOLVER.MAX_EPOCHS 0 SOLVER.WARMUP_ITERS 50 SOLVER.CLIP_GRADIENTS.CLIP_VALUE 5.0
""".split()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--output", type=Path, default=Path("output/fine_tune"))
    parser.add_argument("--start-iterations", type=int, default=960)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--num-scenes", type=int, default=16, help="scenes of the new classes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])


def run(args: argparse.Namespace) -> int:
    """Train what is not trained yet, print the table and return the exit status."""
    args.output.mkdir(parents=True, exist_ok=True)
    base = args.output / "start_data"
    make_data(base, 1, 96)
    start = args.output / "start"
    train(start, base, ["SOLVER.MAX_ITER", str(args.start_iterations)], seed=1)
    own = args.output / "own_data"
    make_own_data(own, args.num_scenes)
    rows = []
    for seed in args.seeds:
        for name, weights in (("detector", start / "model_final.pth"), ("random", "")):
            run_dir = args.output / f"own_from_{name}_{seed}"
            num_classes = ["MODEL.ROTATED_HEAD.NUM_CLASSES", str(len(CLASSES))]
            own_classes = [*num_classes, "DATASETS.CLASSES", repr(CLASSES)]
            length = ["SOLVER.MAX_ITER", str(args.iterations), "MODEL.WEIGHTS", str(weights)]
            train(run_dir, own, [*own_classes, *length], seed=seed)
            aps = json.loads(result_path(run_dir).read_text(encoding="utf-8"))
            values = [aps["mean_ap"], *(aps["classes"][c]["ap"] for c in CLASSES)]
            rows.append([name, seed, *(f"{100 * value:.1f}" for value in values)])
    print("\n" + tabulate(rows, ["start", "seed", "AP50", *CLASSES], tablefmt="github"))
    return 0


def make_own_data(own: Path, num_scenes: int) -> None:
    """Render other scenes, keep the five classes, and cut patches, unless that is done."""
    if (own / "complete").is_file():
        return
    if own.exists():
        shutil.rmtree(own)
    command("make-synthetic", "--output", own, "--seed", 7, "--num-train", num_scenes)
    for split, (size_px, gap_px) in PATCHES_PX.items():
        for path in (own / split / "labelTxt").glob("*.txt"):
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if len(line.split()) < 9 or line.split()[8] in CLASSES]
            path.write_text("\n".join(kept) + "\n", encoding="utf-8")
        folders = ("--images", own / split / "images", "--labels", own / split / "labelTxt")
        cut = ("--output", own / f"{split}_patches", "--size", size_px, "--gap", gap_px)
        command("split", *folders, *cut)
    (own / "complete").touch()


def train(run_dir: Path, data: Path, settings: list[str], *, seed: int) -> None:
    """Train and evaluate one detector, unless that is done; an interrupted run goes on."""
    if result_path(run_dir).is_file():
        return
    iterations = int(settings[settings.index("SOLVER.MAX_ITER") + 1])
    patch_dirs = [
        f"own_{split}={data / f'{split}_patches'}={data / split / 'labelTxt'}"
        for split in ("train", "val")
    ]
    sets = ("DATASETS.PATCH_DIRS", repr(patch_dirs), "DATASETS.TRAIN", "('own_train',)")
    steps = repr((iterations * 2 // 3, iterations * 9 // 10))
    config = config_folder() / "fcos_r50.yaml"
    print(f"training {run_dir}", flush=True)
    command(
        *("train", "--resume", "--config-file", config, *sets),
        *("DATASETS.TEST", "('own_val',)", "SEED", seed, "OUTPUT_DIR", run_dir),
        *(*SMALL, "SOLVER.STEPS", steps, *settings),
        log=run_dir.with_suffix(".log"),
    )


def command(*arguments: object, log: Path | None = None) -> None:
    """Run a command of tcm_d2, its output into a file if one is named."""
    words = [sys.executable, "-m", "tcm_d2", *map(str, arguments)]
    if log is None:
        subprocess.run(words, check=True)
        return
    with log.open("a") as file:
        subprocess.run(words, stdout=file, stderr=file, check=True)


def result_path(run_dir: Path) -> Path:
    """Return the file that a finished run leaves."""
    return run_dir / "inference" / "own_val" / "ap.json"
