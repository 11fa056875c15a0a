"""What two processes do together in the tests of data-parallel training, job after job.

One pair of processes for all of them: starting an interpreter takes longer than any job.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from tcm_d2.engine.experiment import Evaluation
from tcm_d2.engine.loop import create_ddp_model, train
from tcm_d2.engine.non_finite import NonFiniteLossError
from tcm_d2.layers.sync_norm import SyncBatchNorm2d
from tcm_d2.modeling.dense.normalizers import mean_over_ranks
from tcm_d2.modeling.tcm.matching import score_map_loss
from tests.engine.tiny_run import AnsweringDetector, TinyDetector, make_experiment, map_record


def run_all(folder: str, passes: int) -> None:
    """Do every job with a folder of its own.

    Args:
        folder: of all.
        passes: of the job that accumulates: as many in all processes for one process as for two.
    """
    torch.set_num_threads(1)
    for name in ("plain", "passes", "skip", "stop", "norm", "score_map", "early"):
        Path(folder, name).mkdir(parents=True, exist_ok=True)
    train_plain(Path(folder, "plain"))
    train_in_passes(Path(folder, "passes"), passes)
    train_with_nan(Path(folder, "skip"), "skip")
    train_with_nan(Path(folder, "stop"), "stop")
    normalise(Path(folder, "norm"))
    score_maps(Path(folder, "score_map"))
    stop_early(Path(folder, "early"))


def train_plain(folder: Path) -> None:
    torch.manual_seed(0)
    # Without dropout and batch statistics, one process and two compute the same.
    model = TinyDetector(dropout=0.0)
    model.backbone[1] = nn.Identity()
    train(make_experiment(folder, model=model, max_iter=6), resume=False)


def train_in_passes(folder: Path, accumulation_steps: int) -> None:
    torch.manual_seed(0)
    model = TinyDetector(dropout=0.5)
    experiment = make_experiment(
        folder, model=model, max_iter=6, accumulation_steps=accumulation_steps
    )
    train(experiment, resume=False)


def train_with_nan(folder: Path, on_non_finite: str) -> None:
    """Train where image 7 has no finite loss; leave each process's weights and error."""
    mapper = partial(map_record, nan_index=7)
    experiment = make_experiment(folder, mapper=mapper, on_non_finite=on_non_finite)
    try:
        train(experiment, resume=False)
    except NonFiniteLossError as error:
        (folder / f"error{comm.get_rank()}").write_text(str(error))
    data = b"".join(p.detach().numpy().tobytes() for p in experiment.model.parameters())
    path = folder / f"parameters{comm.get_rank()}"
    path.write_text(hashlib.sha256(data).hexdigest())


class WorseAndWorse:
    """An evaluator whose numbers fall; the processes disagree about them."""

    num_evaluations = 0

    def reset(self) -> None: ...

    def process(self, inputs: Any, outputs: Any) -> None: ...

    def evaluate(self) -> dict[str, dict[str, float]]:
        WorseAndWorse.num_evaluations += 1
        sign = -1 if comm.get_rank() == 0 else 1
        return {"dota": {"AP50": 50.0 + sign * WorseAndWorse.num_evaluations}}


def stop_early(folder: Path) -> None:
    """Train until two evaluations were no better, and once more with --resume."""
    WorseAndWorse.num_evaluations = 0
    inputs = [[map_record({"index": 0})]]
    evaluation = Evaluation("val", lambda: inputs, WorseAndWorse)
    for resume in (False, True):
        experiment = make_experiment(
            folder, model=AnsweringDetector(), eval_period=2, period=2, patience=2
        )
        train(replace(experiment, evaluations=(evaluation,)), resume=resume)
    Path(folder, f"ended{comm.get_rank()}").touch()


def own_part(batch: Tensor) -> Tensor:
    """Return this process's images: the first takes one more than the second."""
    if comm.get_world_size() == 1:
        return batch
    return batch[: len(batch) // 2 + 1] if comm.get_rank() == 0 else batch[len(batch) // 2 + 1 :]


def make_norm_input() -> Tensor:
    """Return (4, 3, 5, 6) values far from zero, where E[x^2] - E[x]^2 has few digits left."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(4, 3, 5, 6, generator=generator) + 100.0


def normalise(folder: Path) -> None:
    """Leave what a synchronised norm computes in float32 and float64."""
    results = {
        "float32": normalise_in(torch.float32),
        "float64": normalise_in(torch.float64),
    }
    torch.save(results, folder / f"rank{comm.get_rank()}.pth")


def normalise_in(dtype: torch.dtype) -> dict[str, Tensor]:
    """Return all that comes out of two training steps and an evaluation.

    The loss is a mean over all images; with unequal parts each process's share is weighted.
    """
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3)).to(dtype)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
        model[0].bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    SyncBatchNorm2d.replace_in(model)
    wrapped = create_ddp_model(model)
    x = own_part(make_norm_input()).to(dtype, copy=True).requires_grad_()
    for _ in range(2):
        ((wrapped(x) ** 3).sum() * comm.get_world_size() / 4).backward()
    model.eval()
    return {
        "grad_input": x.grad / comm.get_world_size(),
        "evaluated": model(x).detach(),
        "grad_weight": model[0].weight.grad,
        "grad_bias": model[0].bias.grad,
        "running_mean": model[0].running_mean,
        "running_var": model[0].running_var,
    }


def score_maps(folder: Path) -> None:
    """Leave the loss on a score map and its gradient, with few objects in one process."""
    generator = torch.Generator().manual_seed(6)
    scores = torch.randn(4, 2, 3, 3, generator=generator)
    masks = torch.zeros(4, 2, 6, 6, dtype=torch.bool)
    masks[0, 0, :5, :4] = True
    masks[1, 1, 2:, 2:] = True
    masks[3, 0, 0, 0] = True
    scores = own_part(scores).clone().requires_grad_()
    loss = score_map_loss(scores, own_part(masks), mean_over_ranks=mean_over_ranks)
    loss.backward()
    result = {"loss": loss.detach(), "grad": scores.grad / comm.get_world_size()}
    torch.save(result, folder / f"rank{comm.get_rank()}.pth")
