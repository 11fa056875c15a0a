"""Train the small detectors of the embedded data set with each loss of boxes, and score them.

    python tools/benchmark.py losses                       # everything; goes on where it stopped
    python tools/benchmark.py losses --only fcos/GWDLoss --iterations 960

All runs see the same pictures, weights and order of samples; scored are the result files of each.
Angles are medians in degrees over found objects (IoU above 0.5) with a direction, that is, not
storage tanks and roundabouts. "square" counts the nearly square ones, long side / short side below
1.3: their error modulo a quarter turn, what it would be if all boxes were upright, and how far the
found boxes are turned from that. "other" counts the others, with their error modulo a half turn.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from benchmarks._embedded_runs import evaluate, train_detector
from tcm_d2.cli.demo import make_data
from tcm_d2.evaluation.analysis.numbers import measure_quads
from tcm_d2.evaluation.analysis.result import OUTCOMES, EvaluationResult

NEARLY_SQUARE = 1.3
ROUND_CLASSES = ("storage-tank", "roundabout")


class Run(NamedTuple):
    """A head, a loss, and settings of the loss that are not its defaults."""

    head: str
    loss: str
    settings: dict[str, str] = {}

    @property
    def name(self) -> str:
        """What tells runs apart, also as a folder."""
        return "/".join([self.head, "-".join([self.loss, *self.settings.values()])])

    @property
    def overrides(self) -> list[str]:
        """KEY VALUE pairs that choose the loss."""
        # The overlap's mode is a key of the head.
        is_mode = self.loss == "RotatedIoULoss"
        section = "MODEL.ROTATED_HEAD.BOX_LOSS_" if is_mode else f"MODEL.BOX_LOSS.{self.loss}."
        # From random weights: the recorded tables are.
        chosen = ["MODEL.CLIP.WEIGHTS", "", "MODEL.ROTATED_HEAD.BOX_LOSS", self.loss]
        for key, value in self.settings.items():
            chosen += [section + key, value]
        return chosen


class Angles(NamedTuple):
    """Degrees, one for each found object.

    Attributes:
        square_error_deg: of nearly square objects, modulo a quarter turn.
        square_upright_error_deg: what an upright box would have there.
        square_turn_deg: how far the found boxes are turned from upright.
        other_error_deg: of all others, modulo a half turn.
    """

    square_error_deg: np.ndarray
    square_upright_error_deg: np.ndarray
    square_turn_deg: np.ndarray
    other_error_deg: np.ndarray


RUNS = [
    Run("fcos", "RotatedIoULoss", {"MODE": "log"}),
    *(Run("fcos", loss) for loss in ("RotatedGIoULoss", "RotatedDIoULoss", "GWDLoss", "KLDLoss")),
    Run("fcos", "KFIoULoss", {"FUN": "ln"}),
    Run("fcos", "ProbIoULoss", {"FORM": "l1"}),
    Run("fcos", "L1Loss"),
    Run("retinanet", "L1Loss"),
    Run("retinanet", "SmoothL1Loss"),
    Run("retinanet", "KFIoULoss", {"FUN": "ln"}),
    Run("retinanet", "RotatedIoULoss", {"MODE": "log"}),
    Run("retinanet", "RotatedGIoULoss"),
    Run("retinanet", "KLDLoss"),
    *(Run("fcos", "RotatedIoULoss", {"MODE": mode}) for mode in ("linear", "square")),
    Run("fcos", "JDLoss"),
    Run("fcos", "ProbIoULoss", {"FORM": "l2"}),
    Run("fcos", "SmoothL1Loss"),
    *(Run("fcos", "KLDLoss", {"SYMMETRY": symmetry}) for symmetry in ("max", "min")),
    *(Run("fcos", "KFIoULoss", {"FUN": fun}) for fun in ("none", "exp")),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--output", type=Path, default=Path("output/losses"))
    parser.add_argument("--iterations", type=int, default=480)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--num-train", type=int, default=96, help="scenes to train on")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these runs: fcos/GWDLoss ...")


def run(args: argparse.Namespace) -> int:
    """Train what is not trained yet, print the table and return the exit status."""
    known = [one.name for one in RUNS]
    unknown = sorted(set(args.only or ()) - set(known))
    if unknown:
        print(f"--only: unknown run {unknown[0]!r}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    chosen = [one for one in RUNS if args.only is None or one.name in args.only]
    args.output.mkdir(parents=True, exist_ok=True)
    make_data(args.output / "data", args.seed, args.num_train)
    rows = []
    for one in chosen:
        train(one, args)
        rows.append([one.head, *one.name.split("/")[1:], *score(one, args)])
        print(f"{one.name}: {rows[-1][2:]}", flush=True)
    header = [
        "head",
        "loss",
        "AP50",
        "AP75",
        "square",
        "error",
        "upright",
        "turn",
        "other",
        "error",
    ]
    print("\n" + tabulate(rows, header, tablefmt="github", disable_numparse=True))
    return 0


def train(one: Run, args: argparse.Namespace) -> None:
    """Train and evaluate one detector, unless that is done; an interrupted run goes on."""
    train_detector(
        folder_of(one, args),
        args.output / "data",
        model=f"tcm_{one.head}",
        iterations=args.iterations,
        seed=args.seed,
        overrides=one.overrides,
    )


def folder_of(one: Run, args: argparse.Namespace) -> Path:
    """Return the output folder of a run."""
    return Path(args.output / f"seed{args.seed}_iterations{args.iterations}" / one.name)


def score(one: Run, args: argparse.Namespace) -> list[str]:
    """Return AP50, AP75, found objects and angle errors of one run, as text."""
    result = evaluate(folder_of(one, args), args.output / "data")
    by_iou = result.table.mean_ap_by_iou
    angles = measure_angles(result)
    medians = [f"{np.median(column):.1f}" if len(column) else "-" for column in angles]
    counts = [str(len(angles.square_error_deg)), str(len(angles.other_error_deg))]
    return [
        *(f"{100 * by_iou[0.5]:.1f}", f"{100 * by_iou[0.75]:.1f}", counts[0]),
        *(*medians[:3], counts[1], medians[3]),
    ]


def measure_angles(result: EvaluationResult) -> Angles:
    """Return the angles of the found objects with a direction."""
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for label, (name, part) in enumerate(result.classes.items()):
        if name in ROUND_CLASSES:
            continue
        is_found = part.outcome == OUTCOMES.index("true")
        found = measure_quads(result.prepared.detection_quads[label][is_found])
        true = measure_quads(result.prepared.object_quads[label][part.best_gt[is_found]])
        is_square = true.aspect < NEARLY_SQUARE
        found_deg, true_deg = found.angle_deg[is_square], true.angle_deg[is_square]
        columns[0].append(turn_deg(found_deg - true_deg, 90.0))
        columns[1].append(turn_deg(true_deg, 90.0))
        columns[2].append(turn_deg(found_deg, 90.0))
        columns[3].append(turn_deg((found.angle_deg - true.angle_deg)[~is_square], 180.0))
    return Angles(*map(np.concatenate, columns))


def turn_deg(angle_deg: np.ndarray, period_deg: float) -> np.ndarray:
    """Return how far angles are from the next multiple of the period."""
    rest = np.mod(angle_deg, period_deg)
    return np.asarray(np.minimum(rest, period_deg - rest))
