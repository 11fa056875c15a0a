"""Detectron2's SimpleTrainer with mixed precision on any device, accumulation and a NaN guard."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tcm_d2.engine.ema import WeightAverage
from tcm_d2.engine.experiment import Training
from tcm_d2.engine.non_finite import NonFinite, NonFiniteGuard, comes_of_nan, file_names
from tcm_d2.engine.sample_stream import SKIPPED_FILES_KEY, Batch
from tcm_d2.engine.seeding import derive_seed, seed_everything
from tcm_d2.layers.precision import at_least_float32

logger = logging.getLogger(__name__)

# Parameters that a message about a bad gradient names.
_MAX_NAMES = 3


class Trainer(SimpleTrainer):  # type: ignore[misc]
    """SimpleTrainer's step, in one or several passes, under autocast if asked for.

    Detectron2's AMPTrainer insists on CUDA and, in 0.6, on float16. Its NaN check sees the mean
    over processes after the backward pass and does not know the images; here each process checks
    its own losses before the backward pass, and the gradient before the step.

    Each pass draws its random numbers (dropout) from (seed, iteration, its number among the passes
    of all processes). They are the same after a resume, and the same for two processes of one pass
    as for one process of two.
    """

    def __init__(
        self,
        model: nn.Module,
        training: Training,
        *,
        guard: NonFiniteGuard,
        average: WeightAverage | None,
    ) -> None:
        """Args:
        model: batch -> dict of scalar losses, possibly wrapped for data-parallel training.
        training: its optimizer is over the model's parameters.
        guard: decides what follows a loss or gradient that is not finite.
        average: of the model's weights, updated after each step; None for none.
        """
        super().__init__(model, training.loader, training.optimizer)
        self._device_type = next(model.parameters()).device.type
        self._amp_dtype = training.amp_dtype
        self._num_passes = training.accumulation_steps
        self._seed = training.seed
        self._guard = guard
        self._average = average
        # Losses in float16 underflow without scaling; bfloat16 has float32's range.
        self._scaler = (
            torch.amp.GradScaler(self._device_type) if training.amp_dtype is torch.float16 else None
        )
        self.skipped_files: Counter[str] = Counter()

    def run_step(self) -> None:
        """Do one iteration: fetch, forward, check, backward, log, clip and step.

        Raises:
            NonFiniteLossError: see `NonFiniteGuard.skip`.
        """
        start = time.perf_counter()
        batch: Batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self._count_skipped_files(batch)
        self._guard.begin_step()
        self.optimizer.zero_grad()
        losses = self._compute_gradient(batch)
        if losses is not None and self._update_weights(losses, batch):
            self._write_metrics(losses, data_time)
            self._guard.end_good_step()
            if self._average is not None:
                self._average.update(self.iter)
        if self._guard.skips:
            self.storage.put_scalar(
                "num_skipped_steps", self._guard.num_skipped, smoothing_hint=False
            )

    def state_dict(self) -> dict[str, Any]:
        """Return iteration, optimizer, hooks, counts, loss scale as plain containers of tensors."""
        state: dict[str, Any] = super().state_dict()
        state["non_finite"] = self._guard.state_dict()
        if self._scaler is not None:
            state["grad_scaler"] = self._scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` returned.

        Raises:
            ValueError: it is of another optimizer.
        """
        self._check_optimizer(state_dict["optimizer"])
        super().load_state_dict(state_dict)
        if "non_finite" in state_dict:
            self._guard.load_state_dict(state_dict["non_finite"])
        if self._scaler is not None and "grad_scaler" in state_dict:
            self._scaler.load_state_dict(state_dict["grad_scaler"])

    def _check_optimizer(self, state: Mapping[str, Any]) -> None:
        """Refuse settings of another optimizer: torch takes them, and fails in the first step."""
        for own, saved in zip(self.optimizer.param_groups, state["param_groups"]):
            # Newer versions of torch add settings; another optimizer also lacks some.
            lacking, foreign = own.keys() - saved.keys(), saved.keys() - own.keys()
            if lacking and foreign:
                raise ValueError(
                    f"SOLVER.OPTIMIZER: the checkpoint has the state of another optimizer than "
                    f"{type(self.optimizer).__name__}: {', '.join(sorted(foreign))} in place of "
                    f"{', '.join(sorted(lacking))}"
                )

    def _compute_gradient(self, batch: Batch) -> dict[str, Tensor] | None:
        """Do all passes; return the mean of their losses, or None where the step is skipped."""
        size, rest = divmod(len(batch), self._num_passes)
        if rest or not size:
            raise ValueError(
                f"SOLVER.ACCUMULATION_STEPS: expected a divisor of the {len(batch)} images that "
                f"each process has per iteration, got {self._num_passes}"
            )
        sums: dict[str, Tensor] = {}
        for number in range(self._num_passes):
            part = batch[number * size : (number + 1) * size]
            number_of_all = comm.get_rank() * self._num_passes + number
            seed_everything(derive_seed(self._seed, self.iter, number_of_all))
            # Gradients are averaged over the processes once, with the last pass.
            with self._without_averaging(number < self._num_passes - 1):
                losses, found = self._forward(part)
                if self._guard.is_bad_anywhere(found):
                    self._guard.skip(self.iter, found)
                    return None
                total = _total(losses) / self._num_passes
                if self._scaler is not None:
                    total = self._scaler.scale(total)
                total.backward()  # type: ignore[no-untyped-call]
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + at_least_float32(loss.detach())
        return {name: value / self._num_passes for name, value in sums.items()}

    def _forward(self, batch: Batch) -> tuple[dict[str, Tensor], NonFinite | None]:
        """Return the losses, and what is not finite in them.

        A part that raises on NaN, as some of torch's losses do, is the same as a loss that is NaN.
        In one of several processes it ends the run: the others wait for this one inside the model.
        """
        with self._autocast():
            try:
                losses: dict[str, Tensor] = self.model(batch)
            except Exception as error:
                logger.error("iteration %d failed on: %s", self.iter, file_names(batch))
                if not comes_of_nan(error):
                    raise
                found = NonFinite(f"a value in the model ({error})", {}, batch)
                if comm.get_world_size() > 1:
                    self._guard.stop_alone(self.iter, found)
                return {}, found
        if bool(_total(losses).isfinite()):
            return losses, None
        return losses, NonFinite("the loss", losses, batch)

    def _update_weights(self, losses: dict[str, Tensor], batch: Batch) -> bool:
        """Step if the gradient is finite, which all processes agree on; tell if it was done."""
        if self._scaler is not None:
            # By ourselves: with a fused optimizer the scaler leaves this to the optimizer's
            # kernel, and clipping before it would see the scaled gradient.
            self._scaler.unscale_(self.optimizer)
            self.storage.put_scalar("grad_scale", self._scaler.get_scale(), smoothing_hint=False)
        norm = self._gradient_norm()
        if math.isfinite(norm):
            self.storage.put_scalar("grad_norm", norm)
            if self._scaler is None:
                self.optimizer.step()
            else:
                self._scaler.step(self.optimizer)
                self._scaler.update()
            return True
        if self._scaler is not None and self._lowers_scale(self._scaler):
            logger.info("iteration %d: no step, the loss scale was too high", self.iter)
            self._guard.count_step_without_update(self.iter, "the scaled gradient is not finite")
        else:
            self._guard.skip(self.iter, NonFinite(self._name_bad_gradients(), losses, batch))
        return False

    def _gradient_norm(self) -> float:
        """Return the norm of the gradient, the same in all processes: it is their mean's."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        return float(nn.utils.get_total_norm(gradients))

    def _lowers_scale(self, scaler: torch.amp.GradScaler) -> bool:
        """Let the scaler see the unscaled gradient; tell if it found an infinite value there."""
        before = scaler.get_scale()
        scaler.update()
        return scaler.get_scale() < before

    def _name_bad_gradients(self) -> str:
        names = [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
        ]
        if not names:
            return "the norm of the gradient"
        shown = ", ".join(names[:_MAX_NAMES])
        return f"the gradient of {shown} ({len(names)} in all)"

    def _without_averaging(self, wanted: bool) -> AbstractContextManager[Any]:
        if wanted and isinstance(self.model, DistributedDataParallel):
            no_sync: AbstractContextManager[Any] = self.model.no_sync()
            return no_sync
        return nullcontext()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._amp_dtype is None:
            return nullcontext()
        return torch.autocast(self._device_type, dtype=self._amp_dtype)

    def _count_skipped_files(self, batch: Batch) -> None:
        for sample in batch:
            for name in sample.pop(SKIPPED_FILES_KEY, ()):
                self.skipped_files[name] += 1


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([at_least_float32(loss) for loss in losses.values()]).sum()


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
