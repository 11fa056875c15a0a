"""Time the detector against R, one forward pass of torchvision's ResNet-50 in the same run.

    python tools/benchmark.py detector                         # inference, training, parts, limits
    python tools/benchmark.py detector --modes growth --plot docs/benchmarks/growth.png
    python tools/benchmark.py detector --modes profile
    python tools/benchmark.py detector --device cuda --batch-size 8

R is float32, evaluation, one image of 1024 x 1024, on the same device with as many threads, in a
process of its own with torch as it comes, before and after each table. The best of the repeats
counts. Beside the clock stands the CPU time of all threads, which a busy machine disturbs less.
Detectors run as the tools run them: with memory kept on the CPU, see `keep_freed_memory`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks._detectors import (
    give_candidates,
    make_detector,
    make_inputs,
    run_head,
)
from benchmarks._growth import measure_growth
from benchmarks._limits import print_limits
from benchmarks._measuring import (
    Times,
    make_reference_call,
    peak_memory_gb,
    race,
    sleep_while_waiting,
)
from tcm_d2.cpu.process_memory import DEFAULT_KEPT_BYTES, keep_freed_memory

MODES = ("inference", "training", "after-head", "limits", "profile", "growth")
# Share of all class scores above the threshold: 2000 and more candidates on the two finest levels.
CANDIDATE_SHARE = 0.1
NUM_OBJECTS = 100
TOOL = Path(__file__).resolve().parents[1] / "tools" / "benchmark.py"
CHECKPOINTING = ("MODEL.CHECKPOINT_ACTIVATIONS", "True")
CHANNELS_LAST = ("MODEL.CHANNELS_LAST", "True")
# In the name of a variant: the network as it is written, not made fast.
TORCH_ALONE = "torch alone"
# Name -> overrides, and the dtype of autocast or None.
INFERENCE: dict[str, tuple[tuple[str, ...], torch.dtype | None]] = {
    "float32, torch alone": ((), None),
    "float32": ((), None),
    "float32, compiled": (("TEST.COMPILE", "True"), None),
    "bfloat16, torch alone": ((), torch.bfloat16),
    "bfloat16": ((), torch.bfloat16),
    "bfloat16, compiled": (("TEST.COMPILE", "True"), torch.bfloat16),
}
TRAINING: dict[str, tuple[tuple[str, ...], torch.dtype | None]] = {
    "float32, torch alone": ((), None),
    "float32": ((), None),
    "float32, channels last": (CHANNELS_LAST, None),
    "float32, checkpointing": (CHECKPOINTING, None),
    "bfloat16, channels last": (CHANNELS_LAST, torch.bfloat16),
    "bfloat16, channels last, checkpointing": ((*CHANNELS_LAST, *CHECKPOINTING), torch.bfloat16),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        default=["limits", "inference", "after-head", "training"],
    )
    parser.add_argument("--config", default="tcm_fcos", help="stem of a file in configs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side-px", type=int, default=1024, help="of the images in inference")
    parser.add_argument("--batch-size", type=int, default=1, help="images in inference")
    parser.add_argument("--training-sides-px", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--training-batch-size", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="names of the variants to measure")
    parser.add_argument(
        "--kept-mb",
        type=int,
        default=DEFAULT_KEPT_BYTES >> 20,
        help="CPU memory kept for later tensors; 0 for torch as it comes",
    )
    parser.add_argument("--with-compile", action="store_true", help="also the compiled variants")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write all rows here")
    parser.add_argument("--plot", type=Path, help="draw the growth here (needs matplotlib)")
    parser.add_argument("--child", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run the suite, print its tables and return the exit status."""
    sleep_while_waiting()
    torch.set_num_threads(args.threads)
    if args.child is not None:
        print(json.dumps(_measure_child(args)))
        return 0
    print(f"device {_device_name(args)}, {args.threads} threads, torch {torch.__version__}")
    modes: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
        "inference": _inference,
        "training": _training,
        "after-head": _after_head,
        "limits": lambda args: print_limits(args.config, args.side_px, torch.device(args.device)),
        "profile": _profile,
        "growth": lambda args: measure_growth(
            args.config, torch.device(args.device), args.repeats, args.plot
        ),
    }
    rows = {mode: modes[mode](args) for mode in args.modes}
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=2))
    return 0


def _inference(args: argparse.Namespace) -> list[dict[str, Any]]:
    title = f"inference, {args.batch_size} x {args.side_px} px"
    names = _wanted(INFERENCE, args)
    return _measure_table(args, title, "inference", names, args.side_px, args.batch_size)


def _training(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    batch_size, names = args.training_batch_size, _wanted(TRAINING, args)
    for side_px in args.training_sides_px:
        title = f"training, forward and backward, {batch_size} x {side_px} px"
        rows += _measure_table(args, title, "training", names, side_px, batch_size)
    return rows


def _wanted(variants: dict[str, Any], args: argparse.Namespace) -> list[str]:
    if args.only:
        return [name for name in variants if name in args.only]
    return [name for name in variants if args.with_compile or "compiled" not in name]


def _measure_table(
    args: argparse.Namespace,
    title: str,
    kind: str,
    names: list[str],
    side_px: int,
    batch_size: int,
) -> list[dict[str, Any]]:
    """Measure each variant in a process of its own; print and return the rows."""
    print(f"\n{title}", flush=True)
    references = [_run_child(args, {"kind": "reference"})]
    rows = []
    for name in names:
        job = {"kind": kind, "name": name, "side_px": side_px, "batch_size": batch_size}
        rows.append({**job, **_run_child(args, job)})
    references.append(_run_child(args, {"kind": "reference"}))
    unit = Times(*(min(r[key] for r in references) for key in ("seconds", "cpu_seconds")))
    print(f"  R: {unit.wall:.3f} s, {unit.cpu:.3f} s of CPU time")
    for row in rows:
        ratio = Times(row["seconds"], row["cpu_seconds"]).over(unit)
        row.update(R_seconds=unit.wall, over_R=ratio.wall, cpu_over_R=ratio.cpu)
        print(
            f"  {row['name']:<40} {row['seconds']:8.3f} s  "
            f"{batch_size / row['seconds']:8.2f} images/s  {ratio.wall:6.2f} R  "
            f"{ratio.cpu:6.2f} R (CPU time)  {row['peak_gb']:6.2f} GB",
            flush=True,
        )
    return rows


def _run_child(args: argparse.Namespace, job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", str(TOOL), "detector", "--child", json.dumps(job)]
    command += ["--config", args.config, "--device", args.device, "--kept-mb", str(args.kept_mb)]
    command += ["--threads", str(args.threads), "--repeats", str(args.repeats)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return row


def _measure_child(args: argparse.Namespace) -> dict[str, Any]:
    job = json.loads(args.child)
    device = torch.device(args.device)
    if job["kind"] == "reference":
        call, peak_gb = make_reference_call(device), 0.0
    else:
        if device.type == "cpu" and args.kept_mb:
            keep_freed_memory(args.kept_mb << 20)
        call = _detector_call(args, job, device)
        call()
        peak_gb = peak_memory_gb(device)
    times = race({"it": call}, device=device, repeats=args.repeats)["it"]
    return {"seconds": times.wall, "cpu_seconds": times.cpu, "peak_gb": peak_gb}


def _detector_call(
    args: argparse.Namespace, job: dict[str, Any], device: torch.device
) -> Callable[[], object]:
    trains = job["kind"] == "training"
    overrides, dtype = (TRAINING if trains else INFERENCE)[job["name"]]
    model = make_detector(args.config, device, overrides, fast=TORCH_ALONE not in job["name"])
    inputs = make_inputs(job["batch_size"], job["side_px"], num_objects=NUM_OBJECTS)
    if trains:
        return _training_call(model.train(), inputs, dtype, device)
    give_candidates(model, inputs, CANDIDATE_SHARE)
    return _inference_call(model.eval(), inputs, dtype, device)


def _inference_call(
    model: nn.Module, inputs: list[Any], dtype: torch.dtype | None, device: torch.device
) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode(), _autocast(device, dtype):
            return model(inputs)

    return call


def _training_call(
    model: nn.Module, inputs: list[Any], dtype: torch.dtype | None, device: torch.device
) -> Callable[[], object]:
    def call() -> object:
        model.zero_grad()
        with _autocast(device, dtype):
            losses = model(inputs)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        return total

    return call


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def _after_head(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure candidates, decoding, NMS and Instances, as a share of the whole."""
    device = torch.device(args.device)
    model = make_detector(args.config, device)
    inputs = make_inputs(1, args.side_px)
    give_candidates(model, inputs, CANDIDATE_SHARE)
    call = _inference_call(model, inputs, None, device)
    with torch.inference_mode():
        output = run_head(model, inputs)
    sizes = [(args.side_px, args.side_px)]
    calls = {"all": call, "after the head": lambda: model.head.predict(output, sizes)}
    times = race(calls, device=device, repeats=args.repeats)
    share = times["after the head"].over(times["all"])
    num_detections = len(call()[0]["instances"])
    row = {
        "seconds": times["after the head"].wall,
        "share": share.wall,
        "cpu_share": share.cpu,
        "detections": num_detections,
    }
    print(
        f"\nafter the head: {1e3 * row['seconds']:.1f} ms, {100 * share.wall:.2f}% of inference "
        f"({100 * share.cpu:.2f}% by CPU time), {num_detections} detections"
    )
    return [row]


def _profile(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the ten largest costs of an image, by operator and shapes."""
    device = torch.device(args.device)
    rows = []
    for name in _wanted(INFERENCE, args):
        overrides, dtype = INFERENCE[name]
        model = make_detector(args.config, device, overrides, fast=TORCH_ALONE not in name)
        inputs = make_inputs(args.batch_size, args.side_px)
        give_candidates(model, inputs, CANDIDATE_SHARE)
        call = _inference_call(model, inputs, dtype, device)
        call()
        with torch.profiler.profile(record_shapes=True) as profiler:
            call()
        costs = profiler.key_averages(group_by_input_shape=True)
        time_of = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        total = sum(getattr(cost, time_of) for cost in costs)
        print(f"\nten largest costs, {name}: share, calls, operator, shapes of inputs")
        for cost in sorted(costs, key=lambda cost: -getattr(cost, time_of))[:10]:
            share = getattr(cost, time_of) / total
            shapes = [shape for shape in cost.input_shapes if shape]
            rows.append({"variant": name, "share": share, "op": cost.key, "shapes": shapes})
            print(f"  {100 * share:5.1f}%  {cost.count:4d}  {cost.key}  {shapes}")
    return rows


def _device_name(args: argparse.Namespace) -> str:
    device = torch.device(args.device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
