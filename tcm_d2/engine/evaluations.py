"""Evaluations on the way: which was the best, and whether more training is still worth it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from tcm_d2.files import write_atomically

logger = logging.getLogger(__name__)

# What the evaluations of a run gave; `--resume` reads it.
EVALUATIONS_FILE = "evaluations.json"


class EarlyStop(BaseException):
    """Ends the training loop before a step. No Exception: Detectron2 logs those as failures."""


class Score(NamedTuple):
    """One evaluation: the iteration after which it ran, and its first number (the mean AP)."""

    iteration: int
    value: float


class EvaluationHistory:
    """The scores of a run in the order of iterations, in a file of its folder.

    A file and not the checkpoint: the checkpoint of an iteration is written before its evaluation,
    which may take long and fail.
    """

    def __init__(self, output_dir: Path) -> None:
        """Start without scores; nothing is read or written."""
        self._path = output_dir / EVALUATIONS_FILE
        self.scores: list[Score] = []

    @property
    def best(self) -> Score | None:
        """The first of the highest scores; None without any."""
        return max(self.scores, key=lambda score: score.value, default=None)

    @property
    def num_since_best(self) -> int:
        """How many evaluations came after the best one."""
        return 0 if self.best is None else len(self.scores) - 1 - self.scores.index(self.best)

    def load(self, start_iteration: int) -> None:
        """Read the scores of the iterations before ``start_iteration`` from the file."""
        try:
            rows = json.loads(self._path.read_text(encoding="utf-8"))
            scores = [Score(int(row["iteration"]), float(row["value"])) for row in rows]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("'%s' cannot be read and counts as empty: %s", self._path, error)
            return
        self.scores = sorted(score for score in scores if score.iteration < start_iteration)

    def add(self, score: Score) -> bool:
        """Note a score, in place of an earlier one of its iteration; tell if it is the best."""
        kept = [other for other in self.scores if other.iteration != score.iteration]
        self.scores = sorted([*kept, score])
        rows = [other._asdict() for other in self.scores]
        write_atomically(self._path, lambda stream: stream.write(json.dumps(rows).encode()))
        return self.best == score


class PeriodicEvaluation(HookBase):  # type: ignore[misc]
    """Evaluate every ``period`` iterations and at the end; keep the best; stop without progress.

    In place of Detectron2's EvalHook, which forgets what it saw when a run is resumed. An
    evaluation that the end of the process cut off is done when the run goes on.
    """

    def __init__(
        self,
        evaluate: Callable[[], dict[str, Any]],
        *,
        period: int,
        history: EvaluationHistory,
        save_best: Callable[[Score], None],
        patience: int,
    ) -> None:
        """Args:
        evaluate: returns nested dicts of numbers, the one to compare first; what other processes
            than the main one return is not compared.
        period: 0 is at the end only; then nothing is noted and saved, as there is no choice.
        history: of this run, empty.
        save_best: called on the main process when an evaluation is the best so far.
        patience: evaluations in a row without a new best after which training ends; 0 is never.
        """
        self._evaluate = evaluate
        self._period = period
        self._history = history
        self._save_best = save_best
        self._patience = patience
        self.is_over = False

    def before_train(self) -> None:
        """Take up what was known; do the evaluation that is due and missing."""
        start = self.trainer.start_iter
        if self._period == 0 or start == 0:
            return
        self._history.load(start)
        known = any(score.iteration == start - 1 for score in self._history.scores)
        is_due = start % self._period == 0 and start < self.trainer.max_iter
        if _agreed(is_due and not known):
            logger.info("evaluating iteration %d, which an earlier process did not", start - 1)
            self.trainer.storage.iter = start - 1
            self._run(start - 1)
            self.trainer.storage.iter = start
        self.is_over = self._is_without_progress()

    def before_step(self) -> None:
        """End a run at once that had ended by itself before."""
        if self.is_over:
            raise EarlyStop

    def after_step(self) -> None:
        """Evaluate if it is time; the last evaluation follows the training."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._run(self.trainer.iter)
            self.is_over = self._is_without_progress()

    def after_train(self) -> None:
        """Evaluate once more where training came to its end, and not after a failure."""
        if self.trainer.iter + 1 >= self.trainer.max_iter and not self.is_over:
            self._run(self.trainer.max_iter - 1)

    def _run(self, iteration: int) -> None:
        numbers = flatten_results_dict(self._evaluate() or {})
        if numbers:
            self.trainer.storage.put_scalars(**numbers, smoothing_hint=False)
            name, value = next(iter(numbers.items()))
            if self._period > 0 and math.isfinite(value) and comm.is_main_process():
                self._note(name, Score(iteration, float(value)))
        # Evaluation may take different time among processes; they start the next step together.
        comm.synchronize()

    def _note(self, name: str, score: Score) -> None:
        if self._history.add(score):
            logger.info("%s %.2f after iteration %d is the best so far", name, *score[::-1])
            self._save_best(score)
        elif self._history.best is not None:
            logger.info(
                "%s stays best with %.2f after iteration %d", name, *self._history.best[::-1]
            )

    def _is_without_progress(self) -> bool:
        if self._patience == 0:
            return False
        return _agreed(self._history.num_since_best >= self._patience)


def _agreed(decision: bool) -> bool:
    """Return the main process's decision in all."""
    return bool(comm.all_gather(decision)[0])
