"""The command tcm-d2 demo."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.labels import read_label
from tcm_d2.data.images import read_image
from tcm_d2.evaluation.files.task_files import read_task1
from tcm_d2.packaged_configs import config_folder
from tcm_d2.structures.conversions import quads_to_boxes
from tcm_d2.structures.detections import ClassDetections
from tcm_d2.visualize.draw import draw_comparison, make_contact_sheet, save_image

NUM_PICTURES = 12
# Size and gap of the patches. Evaluation takes larger ones: fewer objects are cut.
PATCHES_PX = {"train": (256, 64), "val": (384, 256)}
SCORE_THRESHOLD = 0.3


def run(args: argparse.Namespace) -> None:
    """Run the steps; exit with the status of the first that fails."""
    config = config_folder() / f"embedded_{args.model}.yaml"
    if not config.is_file():
        known = ", ".join(sorted(p.stem[9:] for p in config_folder().glob("embedded_*.yaml")))
        sys.exit(f"--model: no embedded configuration for {args.model!r}; known: {known}")
    if args.fresh and args.output.exists():
        shutil.rmtree(args.output)
    args.output.mkdir(parents=True, exist_ok=True)
    data_dir, run_dir = args.output / "data", args.output / args.model
    started = time.perf_counter()
    make_data(data_dir, args.seed, args.num_train)
    weights = run_dir / "model_final.pth"
    patch_dirs = [
        f"embedded_{split}={data_dir / f'{split}_patches'}={data_dir / split / 'labelTxt'}"
        for split in ("train", "val")
    ]
    overrides = [
        *("DATASETS.PATCH_DIRS", repr(patch_dirs)),
        *("DATASETS.TRAIN", "('embedded_train',)"),
        *("DATASETS.TEST", "('embedded_val',)"),
        *("SEED", str(args.seed)),
        *("OUTPUT_DIR", str(run_dir)),
        *args.overrides,
    ]
    options = ["--config-file", str(config)]
    if weights.is_file():
        print(f"\nusing the detector trained before ({weights}); --fresh trains again", flush=True)
        run_step("eval", *options, *overrides, "MODEL.WEIGHTS", str(weights))
    else:
        run_step("train", *options, "--resume", *overrides)
    result_dir = run_dir / "inference" / "embedded_val"
    table = ap_table(result_dir / "ap.json")
    (args.output / "ap.md").write_text(table, encoding="utf-8")
    pictures = draw_pictures(data_dir / "val", result_dir / "Task1", args.output / "pictures")
    minutes = (time.perf_counter() - started) / 60
    print(f"\n{table}\nAP table      {args.output / 'ap.md'}")
    print(f"pictures      {pictures} (blue: found, yellow: missed, red: false)")
    print(f"detector      {weights}")
    print(f"took {minutes:.1f} minutes", flush=True)


def run_step(*words: str) -> None:
    """Run a command in a process of its own; stop with its exit status if it fails."""
    print("\n$ tcm-d2 " + shlex.join(words), flush=True)
    status = subprocess.run([sys.executable, "-m", "tcm_d2", *words], check=False).returncode
    if status != 0:
        sys.exit(status)


def make_data(data_dir: Path, seed: int, num_train: int) -> None:
    """Render the scenes and split them into patches, unless a finished copy stands there.

    The held-out scenes depend on the seed only.
    """
    done = data_dir / f"complete_seed{seed}_train{num_train}"
    if done.is_file():
        print(f"using the data set in {data_dir}", flush=True)
        return
    run_step(
        "make-synthetic",
        *("--output", str(data_dir), "--preset", "demo", "--seed", str(seed)),
        *("--num-train", str(num_train)),
    )
    for split, (size_px, gap_px) in PATCHES_PX.items():
        run_step(
            "split",
            *("--images", str(data_dir / split / "images")),
            *("--labels", str(data_dir / split / "labelTxt")),
            *("--output", str(data_dir / f"{split}_patches")),
            *("--size", str(size_px), "--gap", str(gap_px)),
        )
    done.touch()


def ap_table(path: Path) -> str:
    """Return the AP table of an evaluation as Markdown."""
    result = json.loads(path.read_text(encoding="utf-8"))
    lines = ["| class | AP50 | ground truths | detections |", "|---|---|---|---|"]
    for name, row in result["classes"].items():
        ap = "-" if row["ap"] is None else f"{100 * row['ap']:.1f}"
        lines.append(f"| {name} | {ap} | {row['num_ground_truths']} | {row['num_detections']} |")
    lines.append(f"| **mean** | **{100 * result['mean_ap']:.1f}** | | |")
    return "\n".join(lines) + "\n"


def draw_pictures(split_dir: Path, task1_dir: Path, picture_dir: Path) -> Path:
    """Draw found, missed and false boxes on the held-out images; return the overview's path."""
    detections = read_task1(task1_dir)
    picture_dir.mkdir(parents=True, exist_ok=True)
    pictures = []
    for image_path in sorted((split_dir / "images").glob("*.png"))[:NUM_PICTURES]:
        label = read_label(split_dir / "labelTxt" / f"{image_path.stem}.txt")
        gt_quads = np.array([o.quad for o in label.objects], np.float32).reshape(-1, 4, 2)
        boxes, scores, classes = boxes_of_image(detections, image_path.stem)
        picture = draw_comparison(
            read_image(image_path, channel_order="RGB"),
            quads_to_boxes(gt_quads),
            [DOTA_V1_CLASSES.index(o.class_name) for o in label.objects],
            boxes,
            classes,
            scores,
            class_names=DOTA_V1_CLASSES,
            gt_difficult=[o.difficult != 0 for o in label.objects],
            score_threshold=SCORE_THRESHOLD,
        )
        save_image(picture_dir / image_path.name, picture)
        pictures.append(picture)
    overview = picture_dir / "overview.png"
    save_image(overview, make_contact_sheet(pictures, columns=4))
    return overview


def boxes_of_image(
    detections: dict[str, ClassDetections], image_id: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one image's boxes (M, 5), scores (M,) and class indices (M,)."""
    quads, scores, classes = [], [], []
    for name, rows in detections.items():
        here = np.array([row_id == image_id for row_id in rows.image_ids], dtype=bool)
        quads.append(np.asarray(rows.quads)[here].reshape(-1, 4, 2))
        scores.append(np.asarray(rows.scores)[here])
        classes.append(np.full(here.sum(), DOTA_V1_CLASSES.index(name)))
    boxes = quads_to_boxes(np.concatenate(quads).astype(np.float32))
    return boxes, np.concatenate(scores), np.concatenate(classes)
