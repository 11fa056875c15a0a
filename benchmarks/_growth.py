"""How the cost grows: side of the image, classes, objects per image, candidates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks._detectors import give_candidates, make_detector, make_inputs, run_head
from benchmarks._measuring import Times, make_reference_call, race

SIDES_PX = (512, 768, 1024, 1536, 2048)
CLASSES = (1, 10, 30, 100)
OBJECTS = (0, 50, 500, 5000)
CANDIDATES = (100, 500, 2000, 8000)
# Of images where the side is not what grows.
SIDE_PX = 512
NUM_CLASSES = 15

Rows = list[dict[str, Any]]


def measure_growth(config: str, device: torch.device, repeats: int, plot: Path | None) -> Rows:
    """Print and return the cost at several sizes of each kind; draw it if ``plot`` is given."""
    reference = race({"R": make_reference_call(device)}, device=device, repeats=2)["R"]
    print(f"\ngrowth; R = {reference.wall:.3f} s")
    rows: Rows = []

    def add(kind: str, sizes: tuple[int, ...], calls: dict[str, Callable[[], object]]) -> None:
        times = race(calls, device=device, repeats=repeats)
        for size, time in zip(sizes, times.values(), strict=True):
            rows.append(_row(kind, size, time, reference))

    add("side, inference", SIDES_PX, _by_side(config, device))
    add("classes, inference", CLASSES, _by_classes(config, device))
    add("objects, losses and their gradients", OBJECTS, _by_objects(config, device))
    add("candidates per level, after the head", CANDIDATES, _by_candidates(config, device))
    if plot is not None:
        _draw(rows, plot)
    return rows


def _row(kind: str, size: int, time: Times, reference: Times) -> dict[str, Any]:
    ratio = time.over(reference)
    row = {"kind": kind, "size": size, "seconds": time.wall, "over_R": ratio.wall}
    row["cpu_over_R"] = ratio.cpu
    print(
        f"  {kind:<38} {size:6d}  {time.wall:8.4f} s  {ratio.wall:7.4f} R  "
        f"{ratio.cpu:7.4f} R (CPU time)",
        flush=True,
    )
    return row


def _infer(model: torch.nn.Module, inputs: list[Any]) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return model(inputs)

    return call


def _by_side(config: str, device: torch.device) -> dict[str, Callable[[], object]]:
    model = make_detector(config, device)
    give_candidates(model, make_inputs(1, SIDE_PX), 0.02)
    return {str(side_px): _infer(model, make_inputs(1, side_px)) for side_px in SIDES_PX}


def _by_classes(config: str, device: torch.device) -> dict[str, Callable[[], object]]:
    calls = {}
    inputs = make_inputs(1, SIDE_PX)
    for number in CLASSES:
        names = [f"kind {index}" for index in range(number)]
        overrides = ("MODEL.TCM.CLASS_NAMES", str(names))
        overrides += ("MODEL.ROTATED_HEAD.NUM_CLASSES", str(number))
        model = make_detector(config, device, overrides)
        give_candidates(model, inputs, 0.02)
        calls[str(number)] = _infer(model, inputs)
    return calls


def _by_objects(config: str, device: torch.device) -> dict[str, Callable[[], object]]:
    model = make_detector(config, device).train()
    with torch.no_grad():
        output = run_head(model, make_inputs(1, SIDE_PX))
    output = type(output)(*([level.requires_grad_() for level in levels] for levels in output))
    calls = {}
    for number in OBJECTS:
        target = make_inputs(1, SIDE_PX, num_objects=number)[0]["instances"]
        calls[str(number)] = _losses(
            model.head, output, target.gt_boxes.tensor.to(device), target.gt_classes.to(device)
        )
    return calls


def _losses(
    head: torch.nn.Module, output: Any, boxes: torch.Tensor, classes: torch.Tensor
) -> Callable[[], object]:
    def call() -> object:
        total = torch.stack(list(head.losses(output, [boxes], [classes]).values())).sum()
        total.backward()
        return total

    return call


def _by_candidates(config: str, device: torch.device) -> dict[str, Callable[[], object]]:
    model = make_detector(config, device)
    inputs = make_inputs(1, SIDE_PX)
    give_candidates(model, inputs, 0.5)
    with torch.inference_mode():
        output = run_head(model, inputs)

    def predict(topk: int) -> Callable[[], object]:
        def call() -> object:
            model.head.topk_candidates = topk
            return model.head.predict(output, [(SIDE_PX, SIDE_PX)])

        return call

    return {str(topk): predict(topk) for topk in CANDIDATES}


def _draw(rows: Rows, path: Path) -> None:
    """Draw one panel for each kind, cost in R over size, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    figure, panels = pyplot.subplots(1, len(kinds), figsize=(4 * len(kinds), 3.6))
    for panel, kind in zip(panels, kinds, strict=True):
        mine = [row for row in rows if row["kind"] == kind]
        sizes = [max(row["size"], 1) for row in mine]
        costs = [row["cpu_over_R"] for row in mine]
        panel.plot(sizes, costs, marker="o", label="measured")
        power = 2 if kind.startswith("side") else 1
        panel.plot(
            sizes,
            [costs[-1] * (size / sizes[-1]) ** power for size in sizes],
            linestyle=":",
            label="quadratic" if power == 2 else "linear",
        )
        panel.set(xscale="log", yscale="log", xlabel=kind, ylabel="cost in R")
        panel.grid(True, which="both", alpha=0.3)
        panel.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
