"""Find classes whose words only CLIP has seen: train on 11 classes, score 4 others, too.

    python tools/benchmark.py open_vocabulary                # goes on where it stopped
    python tools/benchmark.py open_vocabulary --table        # of what is there

Patches with a novel object are not trained on (--unlabelled: they are, the object without a label).
Compared are the text classifier, the same asked in other words for the base classes, the linear
one (which cannot name a novel class), and the linear one's boxes named by CLIP, crop by crop. AP50
on held-out scenes: mean over base classes, over novel ones, and the harmonic mean of the two.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from benchmarks._embedded_runs import score_detections, train_detector
from benchmarks.effect import text_of
from benchmarks.embedded_clip import Towers, cut_square, load_towers
from tcm_d2 import Detector
from tcm_d2.cli.demo import PATCHES_PX, make_data
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES, class_name_to_prompt
from tcm_d2.data.dota.labels import list_labels, read_label, write_label
from tcm_d2.data.dota.manifest import LABEL_FOLDER, MANIFEST_NAME, read_manifest, write_manifest
from tcm_d2.data.images import read_image
from tcm_d2.engine.clip_pretraining import LOGIT_SCALE
from tcm_d2.files import write_bytes_atomically
from tcm_d2.inference.results import Detections
from tcm_d2.structures.detections import ClassDetections, no_rows
from tcm_d2.synthetic.captions import DETECTOR_TEMPLATE

NOVEL = ("large-vehicle", "basketball-court", "storage-tank", "helicopter")
BASE = tuple(name for name in DOTA_V1_CLASSES if name not in NOVEL)
METHODS = ("text", "text, in other words", "linear", "linear, named by CLIP")
# Words for base classes that only CLIP has seen.
OTHER_WORDS = {
    "plane": "airplane",
    "baseball-diamond": "baseball field",
    "ground-track-field": "running track",
    "small-vehicle": "car",
    "ship": "boat",
    "soccer-ball-field": "soccer field",
    "roundabout": "traffic circle",
    "harbor": "pier",
    "swimming-pool": "pool",
}
DATA_SEED, NUM_SCENES = 1, 96
# Metrics want low scores, too.
SCORE_THRESHOLD = 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--output", type=Path, default=Path("output/open_vocabulary"))
    parser.add_argument(
        "--results", type=Path, default=Path("docs/benchmarks/open_vocabulary.json")
    )
    parser.add_argument("--iterations", type=int, default=960)
    parser.add_argument("--unlabelled", action="store_true", help="keep pictures of novel objects")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--table", action="store_true", help="train nothing")


def run(args: argparse.Namespace) -> int:
    """Do the runs that are not done, print the table and return the exit status."""
    results: dict[str, dict[str, float]] = {}
    if args.results.is_file():
        results = json.loads(args.results.read_text(encoding="utf-8"))
    for seed in () if args.table else args.seeds:
        if all(name_of(method, seed, args) in results for method in METHODS):
            continue
        data = args.output / "data"
        base = make_base_data(data, keeps_novel=args.unlabelled)
        for classifier in ("text", "linear"):
            train(base, classifier, seed, args)
        for method in METHODS:
            numbers = measure(data, method, seed, args)
            results[name_of(method, seed, args)] = numbers
            print(f"{name_of(method, seed, args)}: {numbers}", flush=True)
        args.results.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(args.results, json.dumps(results, indent=1).encode())
    print(make_table(results))
    return 0


def name_of(method: str, seed: int, args: argparse.Namespace) -> str:
    """Return what tells results apart."""
    pictures = "/novel objects unlabelled" if args.unlabelled else ""
    return f"{method}{pictures}/{args.iterations} iterations/seed {seed}"


def make_base_data(data: Path, *, keeps_novel: bool) -> Path:
    """Make the embedded data set in ``data``; return a folder with its base classes' labels only.

    Args:
        data: folder of the whole data set.
        keeps_novel: whether patches with a novel object are trained on, without its label.
    """
    base = data / ("unlabelled" if keeps_novel else "base")
    if not (base / "complete").is_file():
        make_data(data, DATA_SEED, NUM_SCENES)
        with_novel = {
            patch_id
            for patch_id, path in list_labels(data / "train_patches" / LABEL_FOLDER).items()
            if any(o.class_name in NOVEL for o in read_label(path).objects)
        }
        for split in PATCHES_PX:
            for folder in (split, f"{split}_patches"):
                copy_base_labels(data / folder / LABEL_FOLDER, base / folder / LABEL_FOLDER)
            source, target = data / f"{split}_patches", base / f"{split}_patches"
            shutil.copytree(source / "images", target / "images", dirs_exist_ok=True)
            records = read_manifest(source / MANIFEST_NAME)
            if split == "train" and not keeps_novel:
                records = [record for record in records if record.patch_id not in with_novel]
            write_manifest(target / MANIFEST_NAME, records)
        (base / "complete").touch()
    return base


def copy_base_labels(source: Path, target: Path) -> None:
    """Write label files with the objects of base classes only."""
    for name, path in list_labels(source).items():
        label = read_label(path)
        kept = [o for o in label.objects if o.class_name in BASE]
        write_label(target / f"{name}.txt", dataclasses.replace(label, objects=kept))


def folder_of(classifier: str, seed: int, args: argparse.Namespace) -> Path:
    """Return the output folder of a training."""
    pictures = "_unlabelled" if args.unlabelled else ""
    name = f"{classifier}{pictures}_iterations{args.iterations}_seed{seed}"
    return Path(args.output / name)


def train(base: Path, classifier: str, seed: int, args: argparse.Namespace) -> None:
    """Train a detector on the base classes, unless that is done."""
    train_detector(
        folder_of(classifier, seed, args),
        base,
        model="tcm_fcos",
        iterations=args.iterations,
        seed=seed,
        overrides=[
            *("MODEL.ROTATED_HEAD.CLASSIFIER", classifier),
            # What CLIP knows of other words is lost at the rate of the rest.
            *("SOLVER.IMAGE_TOWER_LR_FACTOR", "0.1"),
            # Random vectors in front of a word, trained on other words, would change what it says.
            *("MODEL.TCM.CONTEXT_WORDS", DETECTOR_TEMPLATE.removesuffix(" {label}")),
            *("MODEL.ROTATED_HEAD.NUM_CLASSES", str(len(BASE))),
            *("MODEL.TCM.CLASS_NAMES", repr([class_name_to_prompt(name) for name in BASE])),
            *("DATASETS.CLASSES", repr(list(BASE)), "TEST.DOTA.ANALYSIS", "none"),
        ],
    )


def measure(data: Path, method: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Return AP50 of each class in percent, and the means."""
    classifier = method.split(",")[0]
    prompts = None
    if "other words" in method:
        prompts = [OTHER_WORDS.get(n, class_name_to_prompt(n)) for n in DOTA_V1_CLASSES]
    detector = Detector.from_pretrained(
        folder_of(classifier, seed, args),
        device="cpu",
        class_names=DOTA_V1_CLASSES if classifier == "text" else None,
        prompts=prompts,
        window_px=512,
        score_threshold=SCORE_THRESHOLD,
    )
    towers = load_towers("embedded") if "CLIP" in method else None
    parts: dict[str, list[ClassDetections]] = {name: [no_rows()] for name in DOTA_V1_CLASSES}
    for image_id in list_labels(data / "val" / "labelTxt"):
        image = read_image(data / "val" / "images" / f"{image_id}.png", channel_order="RGB")
        found = detector(image)
        names, scores = np.array(found.class_names, dtype=object), found.scores
        if towers is not None and len(found):
            names, scores = name_by_clip(towers, image, found)
        for name in DOTA_V1_CLASSES:
            mine = names == name
            rows = ClassDetections([image_id] * int(mine.sum()), scores[mine], found.quads[mine])
            parts[name].append(rows)
    detections = {
        name: ClassDetections(
            [image_id for part in found for image_id in part.image_ids],
            np.concatenate([part.scores for part in found]),
            np.concatenate([part.quads for part in found]),
        )
        for name, found in parts.items()
    }
    result = score_detections(detections, data)
    ap = {name: 100 * (result.table.classes[name].ap or 0.0) for name in DOTA_V1_CLASSES}
    base, novel = (float(np.mean([ap[name] for name in group])) for group in (BASE, NOVEL))
    harmonic = 2 * base * novel / (base + novel) if base + novel else 0.0
    return {
        **{name: round(value, 1) for name, value in ap.items()},
        **{"base": round(base, 1), "novel": round(novel, 1), "harmonic": round(harmonic, 1)},
    }


def name_by_clip(
    towers: Towers, image: np.ndarray, found: Detections
) -> tuple[np.ndarray, np.ndarray]:
    """Return the class names (M,) that CLIP gives to boxes, and their scores times its own."""
    crops = [cut_square(image, quad) for quad in found.quads]
    cosines = torch.cat([towers.tokens(crops[i : i + 32])[0] for i in range(0, len(crops), 32)])
    best = (LOGIT_SCALE * cosines).softmax(1).max(1)
    names = np.array(DOTA_V1_CLASSES, dtype=object)[best.indices.numpy()]
    return names, found.scores * best.values.double().numpy()


def make_table(results: dict[str, dict[str, float]]) -> str:
    """Return the means over seeds, and the spreads where there are several."""
    columns = ("base", "novel", "harmonic", *NOVEL)
    rows = []
    groups: dict[str, list[dict[str, float]]] = defaultdict(list)
    for name, numbers in results.items():
        groups[name.rpartition("/")[0]].append(numbers)
    for group, runs in sorted(
        groups.items(), key=lambda item: METHODS.index(item[0].split("/")[0])
    ):
        values = [np.array([numbers[column] for numbers in runs]) for column in columns]
        rows.append([group.replace("/", ", "), len(runs), *map(text_of, values)])
    return tabulate(rows, ["classifier", "seeds", *columns], "github", disable_numparse=True)
