"""Detectron2's SimpleTrainer with mixed precision on any device and a guard against NaN."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.optim import Optimizer

from tcm_d2.checkpoint.load import write_atomically
from tcm_d2.engine.seeding import derive_seed, seed_everything
from tcm_d2.engine.stream import SKIPPED_FILES_KEY, Batch, ResumableLoader

logger = logging.getLogger(__name__)

# Facts of a sample that name it in a dump.
_SAMPLE_KEYS = ("file_name", "image_id", "height", "width")


class NonFiniteLossError(FloatingPointError):
    """A loss or gradient became NaN or infinite; the message names the batch's files."""


class Trainer(SimpleTrainer):  # type: ignore[misc]
    """SimpleTrainer's step, under autocast if asked for.

    Detectron2's AMPTrainer insists on CUDA and, in 0.6, on float16. Its NaN check sees the mean
    over processes after the backward pass and does not know the images; here each process checks
    its own losses before the backward pass, and the gradient before the step.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: ResumableLoader,
        optimizer: Optimizer,
        *,
        amp_dtype: torch.dtype | None,
        output_dir: str,
    ) -> None:
        """Args:
        model: batch -> dict of scalar losses, possibly wrapped for data-parallel training.
        loader: batches of this process.
        optimizer: over the model's parameters.
        amp_dtype: dtype of autocast, or None for full precision.
        output_dir: for the dump of a batch whose loss is not finite.
        """
        super().__init__(model, loader, optimizer)
        self._device_type = next(model.parameters()).device.type
        self._amp_dtype = amp_dtype
        self._output_dir = Path(output_dir)
        # Losses in float16 underflow without scaling; bfloat16 has float32's range.
        self._scaler = (
            torch.amp.GradScaler(self._device_type) if amp_dtype is torch.float16 else None
        )
        self.skipped_files: Counter[str] = Counter()

    def run_step(self) -> None:
        """Do one iteration: fetch, forward, check, backward, log, clip and step.

        Raises:
            NonFiniteLossError: see the class.
        """
        start = time.perf_counter()
        batch: Batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self._count_skipped(batch)
        with self._autocast():
            try:
                losses: dict[str, Tensor] = self.model(batch)
            except Exception:
                logger.error("iteration %d failed on: %s", self.iter, _file_names(batch))
                raise
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        if not bool(total.isfinite()):
            raise self._non_finite("the loss", losses, batch)
        self.optimizer.zero_grad()
        if self._scaler is None:
            total.backward()  # type: ignore[no-untyped-call]
        else:
            self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self._write_metrics(losses, data_time)
        try:
            if self._scaler is None:
                self.optimizer.step()
            else:
                self._scaler.step(self.optimizer)
                self._scaler.update()
        except FloatingPointError as error:
            raise self._non_finite(str(error), losses, batch) from None

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration, optimizer, hooks and loss scale as plain containers of tensors."""
        state: dict[str, Any] = super().state_dict()
        if self._scaler is not None:
            state["grad_scaler"] = self._scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        super().load_state_dict(state_dict)
        if self._scaler is not None and "grad_scaler" in state_dict:
            self._scaler.load_state_dict(state_dict["grad_scaler"])

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._amp_dtype is None:
            return nullcontext()
        return torch.autocast(self._device_type, dtype=self._amp_dtype)

    def _count_skipped(self, batch: Batch) -> None:
        for sample in batch:
            for name in sample.pop(SKIPPED_FILES_KEY, ()):
                self.skipped_files[name] += 1

    def _non_finite(self, what: str, losses: dict[str, Tensor], batch: Batch) -> NonFiniteLossError:
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        facts = {
            "iteration": self.iter,
            "rank": comm.get_rank(),
            "what": what,
            # JSON has no NaN.
            "losses": {name: repr(value) for name, value in values.items()},
            "batch": [{key: s[key] for key in _SAMPLE_KEYS if key in s} for s in batch],
        }
        path = self._output_dir / f"non_finite_iter{self.iter:07d}_rank{comm.get_rank()}.json"
        text = json.dumps(facts, indent=2, default=str)
        write_atomically(path, lambda stream: stream.write(text.encode()))
        return NonFiniteLossError(
            f"iteration {self.iter}: {what} is not finite: {values}; batch: {_file_names(batch)}; "
            f"written to {path}. A lower SOLVER.BASE_LR, a longer warm-up or AMP off may help; or "
            "look at these images and their labels"
        )


class SeedEachStep(HookBase):  # type: ignore[misc]
    """Seed the global generators by (seed, iteration, rank) before each step.

    What the model draws (dropout) then is the same after a resume, and differs between processes.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_step(self) -> None:
        """Seed for ``trainer.iter``."""
        seed_everything(derive_seed(self._seed, self.trainer.iter, comm.get_rank()))


class ReportSkippedFiles(HookBase):  # type: ignore[misc]
    """Say at the end how many images were skipped."""

    def after_train(self) -> None:
        """Log the counts of this process."""
        skipped = self.trainer.skipped_files
        if skipped:
            logger.warning(
                "skipped %d unusable images %d times in this process: %s",
                len(skipped),
                skipped.total(),
                ", ".join(list(skipped)[:5]),
            )


def _file_names(batch: Batch) -> str:
    return ", ".join(str(sample.get("file_name", sample.get("image_id"))) for sample in batch)
