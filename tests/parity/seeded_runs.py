#!/usr/bin/env python3
"""Train small seeded detectors with a checkout's own commands; write or compare what comes out.

    python tests/parity/seeded_runs.py record --checkout . --output after.json
    python tests/parity/seeded_runs.py compare before.json after.json

Recorded are all losses of each run as they are printed, a digest of every tensor of the last
checkpoint, and a digest of every result file. Two commits agree when these are equal: on one
machine, with as many threads. Only commands are called, so that any commit can be recorded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Model, and what is added to its command line. The reference's rounding decides between anchors.
RUNS = {
    "tcm_fcos": (),
    "tcm_atss": ("MODEL.ROTATED_HEAD.ASSIGNER_IOU", "reference"),
    "tcm_retinanet": ("MODEL.ROTATED_HEAD.ASSIGNER_IOU", "reference"),
    "atss_no_tcm": ("MODEL.ROTATED_HEAD.ASSIGNER_IOU", "reference"),
    "tcm_fcos_fast": ("MODEL.CHANNELS_LAST", "False"),
}
COMMON = (
    *("SOLVER.MAX_ITER", "24", "SOLVER.STEPS", "(12, 20)", "SOLVER.WARMUP_ITERS", "5"),
    *("LOG_PERIOD", "1", "SEED", "3", "DATALOADER.NUM_WORKERS", "0", "SOLVER.BASE_LR", "0.002"),
    *("MODEL.ROTATED_HEAD.SCORE_THRESH", "0.001", "TEST.DOTA.ANALYSIS", "none"),
)
NOT_NUMBERS = {"time", "data_time", "eta_seconds", "rank_data_time"}


def record(checkout: Path, output: Path, models: list[str]) -> None:
    """Run every model of ``RUNS`` with the tools of ``checkout``."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        _call(checkout, "make_synthetic_dota.py", "--output", str(data), *_small_set())
        for split in ("train", "val"):
            _call(
                checkout,
                "split_dota.py",
                *("--image-dirs", str(data / split / "images")),
                *("--label-dirs", str(data / split / "labelTxt")),
                *("--out", str(data / f"{split}_patches"), "--size", "256", "--gap", "64"),
            )
        patch_dirs = [
            f"{s}={data / f'{s}_patches'}={data / s / 'labelTxt'}" for s in ("train", "val")
        ]
        for model in models:
            run_dir = Path(folder) / model
            _call(
                checkout,
                *("train_net.py", "--config-file", f"configs/embedded_{model}.yaml", *COMMON),
                *("DATASETS.PATCH_DIRS", repr(patch_dirs), "OUTPUT_DIR", str(run_dir)),
                *("DATASETS.TRAIN", "('train',)", "DATASETS.TEST", "('val',)", *RUNS[model]),
            )
            found[model] = {
                "losses": _losses(run_dir / "metrics.json"),
                "weights": _tensor_digests(run_dir / "model_final.pth"),
                "results": {
                    str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
                    for path in sorted((run_dir / "inference").rglob("Task1*"))
                    if path.is_file()
                },
            }
            print(f"{model}: {len(found[model]['losses'])} iterations", flush=True)
    output.write_text(json.dumps(found, indent=1), encoding="utf-8")


def compare(first: Path, second: Path) -> int:
    """Print where two recordings differ; return 1 if they do."""
    one, two = (json.loads(path.read_text(encoding="utf-8")) for path in (first, second))
    differences = list(_differences(one, two, ""))
    for line in differences[:20]:
        print(line)
    print(f"{len(differences)} differences in {sum(1 for _ in _leaves(one))} values")
    return int(bool(differences))


def _small_set() -> list[str]:
    return ["--preset", "demo", "--seed", "5", "--num-train", "6", "--num-val", "3"]


def _call(checkout: Path, script: str, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(checkout / "tools" / script), *arguments]
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _losses(path: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in row.items() if k not in NOT_NUMBERS} for row in rows]


def _tensor_digests(path: Path) -> dict[str, str]:
    import torch

    tensors = torch.load(path, map_location="cpu", weights_only=True)["model"]
    return {
        name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


def _leaves(node: Any) -> Any:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else None
    if children is None:
        yield node
        return
    for child in children:
        yield from _leaves(child)


def _differences(one: Any, two: Any, where: str) -> Any:
    if isinstance(one, dict) and isinstance(two, dict):
        for key in one.keys() | two.keys():
            yield from _differences(one.get(key), two.get(key), f"{where}/{key}")
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for index, (a, b) in enumerate(zip(one, two)):
            yield from _differences(a, b, f"{where}/{index}")
    elif one != two and not (one != one and two != two):
        yield f"{where}: {one!r} != {two!r}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("--checkout", type=Path, default=Path())
    recording.add_argument("--output", type=Path, required=True)
    recording.add_argument("--models", nargs="+", default=list(RUNS), choices=list(RUNS))
    comparing = commands.add_parser("compare")
    comparing.add_argument("files", nargs=2, type=Path)
    args = parser.parse_args()
    if args.command == "compare":
        sys.exit(compare(*args.files))
    record(args.checkout, args.output, args.models)


if __name__ == "__main__":
    main()
