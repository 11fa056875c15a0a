"""What happens when a loss or gradient is NaN or infinite: dump, then stop or skip."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from detectron2.structures import Boxes, Instances, RotatedBoxes
from detectron2.utils import comm
from torch import Tensor, nn

from tcm_d2.engine.sample_stream import Batch
from tcm_d2.files import write_atomically

logger = logging.getLogger(__name__)

# Dumps that one process writes; each holds a batch of images.
MAX_DUMPS = 10
# More steps in a row without an update mean that the weights or settings are bad, not an image.
# float16's loss scale starts at 2^16 and is halved by each: after 30 it is far below anything sane.
MAX_SUCCESSIVE_SKIPS = 30
_ADVICE = (
    "A lower SOLVER.BASE_LR, a longer warm-up or AMP off may help; or look at these images and "
    "their labels; or set SOLVER.ON_NON_FINITE 'skip'"
)
# Facts of a sample that name it in a dump.
_SAMPLE_KEYS = ("file_name", "image_id", "height", "width")


class NonFiniteLossError(FloatingPointError):
    """A loss or gradient became NaN or infinite; the message names the batch's files."""


class NonFinite(NamedTuple):
    """What one process found in one step.

    Attributes:
        what: "the loss", "the gradient" or a value inside the model.
        losses: by name.
        batch: that the losses are of.
    """

    what: str
    losses: Mapping[str, Tensor]
    batch: Batch


class NonFiniteGuard:
    """Ends the run at the first bad step, or undoes and counts bad steps.

    In data-parallel training all processes come to the same answer.

    Attributes:
        skips: bad steps are undone and counted.
        num_skipped: bad steps of the run so far.
    """

    def __init__(self, model: nn.Module, *, skips: bool, output_dir: str) -> None:
        """Args:
        model: whose buffers (BatchNorm statistics) a skipped step must not change.
        skips: go on after a bad step; else the first one raises.
        output_dir: for dumps.
        """
        self.skips = skips
        self.num_skipped = 0
        self._output_dir = Path(output_dir)
        self._num_successive = 0
        self._num_dumps = 0
        self._buffers = list(model.buffers()) if skips else []
        self._kept = [torch.empty_like(buffer) for buffer in self._buffers]

    def begin_step(self) -> None:
        """Remember what `skip` restores."""
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            kept.copy_(buffer)

    def is_bad_anywhere(self, found: NonFinite | None) -> bool:
        """Tell whether any process found something; all of them ask together.

        One number is reduced over the processes, so that all leave the step at the same place:
        a process that went on alone would wait for the others in the next reduction.
        """
        if comm.get_world_size() == 1:
            return found is not None
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        flag = torch.tensor(float(found is not None), device=device)
        torch.distributed.all_reduce(flag)
        return bool(flag > 0)

    def skip(self, iteration: int, found: NonFinite | None) -> None:
        """Dump and log what was found, then raise or count; all processes call this together.

        Args:
            iteration: of the step.
            found: None in a process whose own part was fine.

        Raises:
            NonFiniteLossError: when bad steps are not skipped, or were too many in a row. It has
                the same message in all processes.
        """
        own = "" if found is None else self._describe(iteration, found)
        message = "; ".join(text for text in comm.all_gather(own) if text)
        if not self.skips:
            raise NonFiniteLossError(f"iteration {iteration}: {message}. {_ADVICE}")
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            buffer.copy_(kept)
        self.num_skipped += 1
        logger.warning(
            "iteration %d skipped, %d in all so far: %s", iteration, self.num_skipped, message
        )
        self.count_step_without_update(iteration, message)

    def stop_alone(self, iteration: int, found: NonFinite) -> NoReturn:
        """Dump what was found and raise, in a process that the others cannot follow."""
        raise NonFiniteLossError(
            f"iteration {iteration}: {self._describe(iteration, found)}. {_ADVICE}"
        )

    def count_step_without_update(self, iteration: int, reason: str) -> None:
        """Count a step that left the weights as they were.

        Raises:
            NonFiniteLossError: for more than MAX_SUCCESSIVE_SKIPS in a row.
        """
        self._num_successive += 1
        if self._num_successive > MAX_SUCCESSIVE_SKIPS:
            raise NonFiniteLossError(
                f"iteration {iteration}: {self._num_successive} steps in a row without a finite "
                f"loss and gradient, at most {MAX_SUCCESSIVE_SKIPS} are skipped; the last one: "
                f"{reason}. Start again from an earlier checkpoint with a lower SOLVER.BASE_LR, or "
                "AMP off"
            )

    def end_good_step(self) -> None:
        """Count an update of the weights."""
        self._num_successive = 0

    def state_dict(self) -> dict[str, int]:
        """Return the counts."""
        return {"num_skipped": self.num_skipped, "num_successive": self._num_successive}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take up what `state_dict` returned."""
        self.num_skipped = int(state["num_skipped"])
        self._num_successive = int(state["num_successive"])

    def _describe(self, iteration: int, found: NonFinite) -> str:
        values = {name: float(loss.detach()) for name, loss in found.losses.items()}
        text = f"{found.what} is not finite: {values}; batch: {file_names(found.batch)}"
        if self._num_dumps >= MAX_DUMPS:
            return text
        self._num_dumps += 1
        stem = self._output_dir / f"non_finite_iter{iteration:07d}_rank{comm.get_rank()}"
        facts = {
            "iteration": iteration,
            "rank": comm.get_rank(),
            "what": found.what,
            # JSON has no NaN.
            "losses": {name: repr(value) for name, value in values.items()},
            "batch": [{key: s[key] for key in _SAMPLE_KEYS if key in s} for s in found.batch],
        }
        facts_text = json.dumps(facts, indent=2, default=str)
        write_atomically(stem.with_suffix(".json"), lambda f: f.write(facts_text.encode()))
        content = [_plain(sample) for sample in found.batch]
        write_atomically(stem.with_suffix(".pth"), lambda f: torch.save(content, f))
        return f"{text}; written to {stem}.json and .pth"


def comes_of_nan(error: BaseException) -> bool:
    """Return whether a function that an error went through holds a tensor with NaN."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(_holds_nan(value) for frame, _ in frames for value in frame.f_locals.values())


def _holds_nan(value: Any, depth: int = 3) -> bool:
    """Look into containers, as deep as a batch is: a list of dicts of tensors."""
    if isinstance(value, Tensor):
        return bool(value.isnan().any())
    if isinstance(value, Mapping):
        value = list(value.values())
    if depth and isinstance(value, (list, tuple)):
        return any(_holds_nan(item, depth - 1) for item in value)
    return False


def file_names(batch: Batch) -> str:
    """Return the names of a batch's images for a message."""
    return ", ".join(str(sample.get("file_name", sample.get("image_id"))) for sample in batch)


def _plain(value: Any) -> Any:
    """Return a sample as containers of tensors, which load without running code."""
    if isinstance(value, Instances):
        return _plain({"image_size": value.image_size, **value.get_fields()})
    if isinstance(value, (Boxes, RotatedBoxes)):
        value = value.tensor
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) or value is None else repr(value)
