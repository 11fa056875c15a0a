"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Iteration i uses a decay of at most (1 + i) / (WARM_UP + i), so that the first, random weights
# are soon forgotten: 0.1 at first, 0.92 at iteration 100, 0.999 from iteration 9,000 on. The rule
# and its 10 are those of TensorFlow's ExponentialMovingAverage (``num_updates``).
WARM_UP = 10


class WeightAverage:
    """A moving average of all trainable parameters and floating buffers of a model.

    What cannot change, or cannot be averaged (frozen parameters, counts), is taken from the model.
    Every process keeps its own; they agree where the models do.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        """Start with the model's present values.

        Args:
            model: not wrapped for data-parallel training; changed by ``swapped_in`` only.
            decay: share of the old average in the new one, once warmed up.
        """
        self._model = model
        self._decay = decay
        self._names: list[str] = []
        self._live: list[Tensor] = []
        known: set[int] = set()
        for name, tensor in model.state_dict(keep_vars=True).items():
            averaged = tensor.is_floating_point() and (
                tensor.requires_grad or not isinstance(tensor, nn.Parameter)
            )
            if averaged and id(tensor) not in known:
                known.add(id(tensor))
                self._names.append(name)
                self._live.append(tensor)
        self._averages = [tensor.detach().clone() for tensor in self._live]

    @torch.no_grad()
    def restart(self) -> None:
        """Take the model's present values."""
        for average, tensor in zip(self._averages, self._live, strict=True):
            average.copy_(tensor)

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Move the average towards the model's values after a step.

        Args:
            iteration: of the run, from 0; decides about the decay (see WARM_UP).
        """
        decay = min(self._decay, (1 + iteration) / (WARM_UP + iteration))
        torch._foreach_lerp_(self._averages, self._live, 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Give the model the average inside the block, and its own values, to the bit, after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """Return a whole state dict of the model with the averages in it."""
        averages = {id(t): a for t, a in zip(self._live, self._averages, strict=True)}
        # By identity and not by name: a shared tensor has several names.
        return {
            name: averages.get(id(tensor), tensor.detach())
            for name, tensor in self._model.state_dict(keep_vars=True).items()
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` returned.

        Raises:
            ValueError: a tensor is missing or has another shape.
        """
        for name, average in zip(self._names, self._averages, strict=True):
            if name not in state or state[name].shape != average.shape:
                found = f"shape {tuple(state[name].shape)}" if name in state else "nothing"
                raise ValueError(
                    f"model_ema: expected {name!r} of shape {tuple(average.shape)}, got {found}; "
                    "start anew from these weights with MODEL.WEIGHTS and without --resume"
                )
            average.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for average, tensor in zip(self._averages, self._live, strict=True):
            kept = tensor.detach().clone()
            tensor.copy_(average)
            average.copy_(kept)
