"""Time an image in the programs that can run the detector's network on a CPU.

    python tools/benchmark.py backends [--side-px 1024] [--threads 1] [--only tcm_d2 openvino]

CPU seconds of all threads for one image, the least of the repeats; each program in a process of its
own, memory kept (`keep_freed_memory`). The network is the configuration's from the image to the
head's outputs, with random weights. ATEN_CPU_CAPABILITY=avx2 TCM_D2_CPU_KERNELS=avx2
ONEDNN_MAX_CPU_ISA=AVX2 in the environment show processors without AVX-512.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch._inductor.config as inductor_config

from benchmarks._detectors import make_detector
from tcm_d2.cpu import keep_freed_memory
from tcm_d2.export.backends import BACKENDS
from tcm_d2.export.dense_model import DenseModel
from tcm_d2.export.files import export_metadata, save_onnx, trace

TOOL = Path(__file__).resolve().parents[1] / "tools" / "benchmark.py"
PROGRAMS = ("tcm_d2", "torch", "inductor", *BACKENDS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--config", default="tcm_fcos", help="stem of a file in configs")
    parser.add_argument("--side-px", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--child", choices=PROGRAMS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run the suite, print its table and return the exit status."""
    if args.child is not None:
        torch.set_num_threads(args.threads)
        print(f"| {args.child} | {measure(args):.2f} |")
        return 0
    print("| program | CPU seconds |\n|---|---|", flush=True)
    for program in args.only:
        command = [sys.executable, "-W", "ignore", str(TOOL), "backends", "--child", program]
        command += ["--config", args.config, "--side-px", str(args.side_px)]
        command += ["--threads", str(args.threads), "--repeats", str(args.repeats)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print(done.stdout.splitlines()[-1], flush=True)
    return 0


def measure(args: argparse.Namespace) -> float:
    """Return the CPU seconds of an image in a program."""
    keep_freed_memory()
    call = make_call(args)
    call()
    seconds = []
    with torch.inference_mode():
        for _ in range(args.repeats):
            start = time.process_time()
            call()
            seconds.append(time.process_time() - start)
    return min(seconds)


def make_call(args: argparse.Namespace) -> Callable[[], object]:
    """Return a function that runs the network on an image."""
    program = args.child
    detector = make_detector(args.config, torch.device("cpu"), fast=program == "tcm_d2").eval()
    model = DenseModel(detector, kind="dense")
    images = 255 * torch.rand(1, 3, args.side_px, args.side_px)
    if program == "inductor":
        inductor_config.freezing = True
        model = torch.compile(model)
    if program not in BACKENDS:
        return torch.no_grad()(lambda: model(images))
    size_hw = (args.side_px, args.side_px)
    metadata = export_metadata(
        model, class_names=(), image_format="RGB", batch_size=1, size_hw=size_hw
    )
    array: np.ndarray = images.numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        program_graph = trace(model, batch_size=1, size_hw=size_hw, dynamic=False)
        save_onnx(program_graph, path, metadata, opset=18)
        network = BACKENDS[program](path)
    return lambda: network(array)
