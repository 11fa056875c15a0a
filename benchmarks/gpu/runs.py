"""What has to run on a GPU: mixed precision, no waiting, compiled graphs, NCCL, a large scene."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from benchmarks._detectors import make_detector, make_inputs
from benchmarks.gpu.agreement import DETECTORS
from tcm_d2 import Detector
from tcm_d2.layers.sync_norm import SyncBatchNorm2d


def precision(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Take a training step of each detector in float16 and bfloat16; gradients are finite."""
    problems, figures = [], {}
    dtypes = (torch.bfloat16,) if device.type == "cpu" else (torch.float16, torch.bfloat16)
    for name in DETECTORS:
        inputs = make_inputs(2, 64 if tiny else 512, num_objects=20)
        for dtype in dtypes:
            model = make_detector(f"embedded_{name}", device).train()
            scale = 1024.0 if dtype is torch.float16 else 1.0
            with torch.autocast(device.type, dtype=dtype):
                losses = model(inputs)
            (sum(losses.values()) * scale).backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            is_finite = all(bool(g.isfinite().all()) for g in gradients)
            figures[f"{name}, {dtype}"] = {k: v.item() for k, v in losses.items()}
            if not is_finite or not all(v.isfinite() for v in losses.values()):
                problems.append(f"{name}, {dtype}: a loss or gradient is not finite")
    return {"losses": figures, "problems": problems}


def waiting(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Count the places of a training step in which the host waits for the device."""
    if device.type != "cuda":
        return {"waits": {}, "problems": []}
    import warnings

    waits: dict[str, int] = {}
    for name in DETECTORS:
        model = make_detector(f"embedded_{name}", device).train()
        inputs = make_inputs(2, 256, num_objects=20)
        sum(model(inputs).values()).backward()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sum(model(inputs).values()).backward()
        torch.cuda.set_sync_debug_mode("default")
        waits[name] = sum("synchroniz" in str(w.message) for w in caught)
    problems = [f"{name}: the host waits {n} times in a step" for name, n in waits.items() if n]
    return {"waits": waits, "problems": problems}


def compiled(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Compare compiled inference and a compiled training step with eager ones."""
    name, side_px = "embedded_tcm_fcos", 64 if tiny else 256
    problems, figures = [], {}
    inputs = make_inputs(1, side_px, num_objects=10)
    for key in ("TEST.COMPILE", "TRAIN.COMPILE"):
        trains = key.startswith("TRAIN")
        results = []
        for overrides in ((), (key, "True")):
            model = make_detector(name, device, overrides).train(trains)
            started = time.perf_counter()
            with torch.set_grad_enabled(trains):
                if trains:
                    results.append({k: v.item() for k, v in model(inputs).items()})
                else:
                    text = model.class_embeddings()
                    images = model.preprocess_images(inputs).tensor
                    model(inputs)
                    output, _ = model.dense_output(images, text)
                    results.append({"mean logit": output.class_logits[0].float().mean().item()})
            figures[f"{key} {bool(overrides)}, first call, s"] = time.perf_counter() - started
        differences = [abs(results[1][k] - v) / max(abs(v), 1e-3) for k, v in results[0].items()]
        figures[f"{key}, relative difference"] = max(differences)
        if max(differences) > 1e-2:
            problems.append(f"{key}: {max(differences):.1e} from eager")
    return {"figures": figures, "problems": problems}


def nccl(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Train a step as the one process of a group, with norms over all processes."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29571", RANK="0", WORLD_SIZE="1")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend)
    try:
        model = make_detector("embedded_tcm_fcos", device, ("MODEL.CLIP.NORM", "SyncBN")).train()
        has_sync = any(isinstance(m, SyncBatchNorm2d) for m in model.modules())
        ids = [device.index or 0] if device.type == "cuda" else None
        parallel = nn.parallel.DistributedDataParallel(
            model, device_ids=ids, find_unused_parameters=False
        )
        losses = parallel(make_inputs(2, 64 if tiny else 256, num_objects=10))
        sum(losses.values()).backward()
        value = torch.ones(1, device=device)
        dist.all_reduce(value)
        problems = [] if value.item() == 1 and has_sync else ["the group does not work"]
        return {"losses": {k: v.item() for k, v in losses.items()}, "problems": problems}
    finally:
        dist.destroy_process_group()


def scene(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Detect in a large scene from a file, with the bundled detector."""
    import cv2

    side_px = 700 if tiny else 8000
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.png"
        small = rng.integers(0, 255, (side_px // 10, side_px // 10, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(small, (side_px, side_px)))
        detector = Detector.from_pretrained("tcm_atss_embedded", device=str(device))
        started = time.perf_counter()
        result = detector(str(path))
        seconds = time.perf_counter() - started
    return {
        "side_px": side_px,
        "seconds": seconds,
        "detections": len(result.scores),
        "problems": [] if bool(np.isfinite(result.boxes).all()) else ["boxes are not finite"],
    }


STEPS = {
    "precision": precision,
    "waiting": waiting,
    "compiled": compiled,
    "nccl": nccl,
    "scene": scene,
}
