"""The checkpointer: Detectron2's, with safe reading, one report per file and atomic writes."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from tcm_d2.checkpoint.convert import ConvertedStateDict, convert_state_dict
from tcm_d2.checkpoint.load_report import LoadReport, names_by_first_part
from tcm_d2.checkpoint.reshape import COUNTER_SUFFIX, Fit, fit_tensors
from tcm_d2.files import UnsafeNameError, joined_path, write_atomically
from tcm_d2.messages import some_names
from tcm_d2.modeling.detector import RotatedOneStageDetector
from tcm_d2.modeling.fixed_text import FIXED_TEXT_MESSAGE, FIXED_TEXT_NAMES
from tcm_d2.weight_files.description import describe_tensors
from tcm_d2.weight_files.reading import WeightFile, read_weight_file

logger = logging.getLogger(__name__)

# Key of a checkpoint under which the average of the weights stands, beside "model".
EMA_KEY = "model_ema"
# Holds the name of the newest checkpoint of a folder.
LAST_CHECKPOINT = "last_checkpoint"
# Stem of the checkpoint of the best evaluation.
BEST_CHECKPOINT = "model_best"
# What MODEL.WEIGHTS may say in an evaluation for a checkpoint of the run's folder.
WEIGHT_WORDS = ("last", "best")
_MAX_TAG_BYTES = 4096
_NUMBERED_NAME = re.compile(r"model_(\d+)\.pth")
# What a CLIP file brings for TCM only.
_CLIP_TEXT_PREFIXES = ("attention_pool.", "text_encoder.")


def load_weights(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    require_all_parameters: bool = False,
) -> LoadReport:
    """Copy tensors into ``model`` where name and shape agree, and log what became of each.

    Names of mmrotate's and CLIP's are translated first; `fit_tensors` says which shapes may
    differ. Where the tensors hold text features instead of a text tower, the model drops its
    tower, too, and is for inference only from then on.

    Args:
        model: changed in place.
        tensors: {name: tensor}.
        source: the file's name, for messages.
        require_all_parameters: also refuse tensors that leave a parameter as it was.

    Raises:
        ValueError: when no tensor fits, or one holds NaN, or the text tower is a shorter one, or
            the text features are not this model's, or parameters are missing and required.
    """
    _take_over_fixed_text(model, tensors, source)
    fitted, report = match_weights(model.state_dict(), tensors, source=source)
    _check_for_nan(fitted, source)
    model.load_state_dict(fitted, strict=False)
    logger.log(
        logging.INFO if report.is_complete else logging.WARNING,
        "weights from %s%s:\n%s",
        source,
        f" (names translated from {report.converted_from}'s)" if report.converted_from else "",
        report.as_table(),
    )
    if require_all_parameters:
        _require_all_parameters(model, report, source)
    return report


def _check_for_nan(tensors: Mapping[str, Tensor], source: str) -> None:
    names = [n for n, t in tensors.items() if t.is_floating_point() and bool(t.isnan().any())]
    if names:
        raise ValueError(
            f"weights '{source}': {len(names)} tensors hold NaN, like {some_names(names)}; the "
            "file is damaged or of a run that went wrong; take an earlier checkpoint, or fetch it "
            "again"
        )


def _take_over_fixed_text(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Make a detector one with fixed text, where the tensors are of such a one."""
    if not isinstance(model, RotatedOneStageDetector):
        return
    fixed = [tensors[name] for name in FIXED_TEXT_NAMES if name in tensors]
    try:
        if len(fixed) == len(FIXED_TEXT_NAMES):
            model.fix_text(*fixed)
        elif model.has_fixed_text:
            raise ValueError(f"{FIXED_TEXT_MESSAGE}; build it anew for other weights")
    except ValueError as error:
        raise ValueError(f"weights '{source}': {error}") from None


def match_weights(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, source: str
) -> tuple[dict[str, Tensor], LoadReport]:
    """Return what of ``tensors`` goes into a model, in its names and shapes, and the report.

    Args:
        own: the model's state dict; only names and shapes are read.
        tensors: {name: tensor}.
        source: the file's name, for messages.

    Raises:
        ValueError: as `load_weights`.
    """
    converted = convert_state_dict(tensors)
    try:
        fit = fit_tensors(converted.state_dict, own)
    except ValueError as error:
        raise ValueError(f"weights '{source}': {error}") from None
    if all(name.endswith(COUNTER_SUFFIX) for name in fit.tensors):
        shapes = [f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()]
        raise ValueError(
            f"weights '{source}': fits nothing in this model: the file holds {len(tensors)} "
            f"tensors, like {some_names(shapes)}; it looks like {describe_tensors(tensors)}, while "
            f"the model has names like {some_names(list(own))}"
        )
    return fit.tensors, _make_report(own, converted, fit)


def _make_report(own: Mapping[str, Tensor], converted: ConvertedStateDict, fit: Fit) -> LoadReport:
    """Return what became of each tensor, under its name in the file where it has none of ours."""
    accounted = {*fit.tensors, *(name for name, _, _ in fit.mismatched)}
    dead, unexpected = list(converted.dead), list[str]()
    for name in converted.state_dict.keys() - accounted:
        is_unused_text = converted.naming == "CLIP" and name.startswith(_CLIP_TEXT_PREFIXES)
        is_unused = is_unused_text or name.endswith(COUNTER_SUFFIX)
        (dead if is_unused and name not in own else unexpected).append(name)
    return LoadReport(
        loaded=sorted(fit.tensors),
        missing=sorted(own.keys() - accounted),
        unexpected=sorted(unexpected) + converted.unknown,
        mismatched=fit.mismatched,
        converted_from="" if converted.naming in ("tcm_d2", "unknown") else converted.naming,
        reshaped=[*(r for r in converted.reshaped if r.name in fit.tensors), *fit.reshaped],
        dead=sorted(dead),
        notes=[*converted.notes, *fit.notes],
    )


class SafeCheckpointer(DetectionCheckpointer):  # type: ignore[misc]
    """Save and load a model with its training state, without ever running code from a file.

    Files are written beside their place and then renamed, so that a kill leaves the old file or
    the new one, never half of one.
    """

    def load(
        self,
        path: str,
        checkpointables: list[str] | None = None,
        *,
        require_all_parameters: bool = False,
    ) -> dict[str, Any]:
        """Load weights, and the training state named by ``checkpointables``, from a local file.

        Args:
            path: see `read_weight_file`; empty keeps the model as it is.
            checkpointables: names to load from the file; None for all that this object has.
            require_all_parameters: also refuse a file that leaves a parameter as it was.

        Returns:
            What the file holds besides.

        Raises:
            FileNotFoundError, ValueError: see `read_weight_file` and `load_weights`; or parameters
                are missing and required.
        """
        if not path:
            logger.info("no weights given: the model keeps those it was built with")
            return {}
        return self._load_content(
            read_weight_file(path),
            path,
            self.checkpointables if checkpointables is None else checkpointables,
            require_all_parameters=require_all_parameters,
        )

    def resume(self) -> dict[str, Any]:
        """Load the last checkpoint of the folder or, where that is damaged, the newest whole one.

        Returns:
            What the file holds besides.

        Raises:
            ValueError: no checkpoint of the folder is whole, or it does not fit the model.
        """
        path, file = self.find_whole_checkpoint()
        return self._load_content(
            file, str(path), self.checkpointables, require_all_parameters=True
        )

    def has_checkpoint(self) -> bool:
        """Return whether there is something to resume from, damaged or not."""
        return bool(self._checkpoints())

    def get_checkpoint_file(self) -> str:
        """Return the path of the last checkpoint that is whole; "" where there is none.

        Raises:
            ValueError: all are damaged.
        """
        return str(self.find_whole_checkpoint()[0]) if self.has_checkpoint() else ""

    def file_of(self, weights: str) -> str:
        """Return the file that "last" or "best" means in the folder; another name as it is.

        Raises:
            FileNotFoundError: the folder has no such checkpoint.
            ValueError: all are damaged.
        """
        if weights not in WEIGHT_WORDS:
            return weights
        if weights == "last":
            if path := self.get_checkpoint_file():
                return path
            raise FileNotFoundError(f"MODEL.WEIGHTS 'last': no checkpoint in '{self.save_dir}'")
        best = Path(self.save_dir or ".") / f"{BEST_CHECKPOINT}.pth"
        if best.is_file():
            return str(best)
        raise FileNotFoundError(
            f"MODEL.WEIGHTS 'best': no {best.name} in '{self.save_dir}'; a run writes it when it "
            "evaluates on the way (TEST.EVAL_PERIOD_EPOCHS 1); MODEL.WEIGHTS last takes the last"
        )

    def find_whole_checkpoint(self) -> tuple[Path, WeightFile]:
        """Return the newest checkpoint that can be read, and its content; say what is passed over.

        Raises:
            ValueError: there is none.
        """
        damaged: list[str] = []
        for path in self._checkpoints():
            try:
                file = read_weight_file(path)
            except (ValueError, OSError) as error:
                logger.warning("checkpoint passed over: %s", error)
                damaged.append(str(error))
                continue
            if damaged:
                logger.warning("going on from %s, the newest whole checkpoint", path)
            return path, file
        raise ValueError(
            f"'{self.save_dir}': no whole checkpoint to resume from ({'; '.join(damaged)}); start "
            "anew without --resume, or from other weights with MODEL.WEIGHTS"
        )

    def _checkpoints(self) -> list[Path]:
        """Return the checkpoint that ``last_checkpoint`` names, then older ones, newest first.

        Iterations in names tell what is older, not clocks. Newer ones than the one that is named
        are of an earlier run in this folder.
        """
        folder = Path(self.save_dir or ".")
        last = self._tagged_checkpoint(folder)
        numbered = [(_iteration(path), path) for path in folder.glob("model_*.pth")]
        limit = math.inf if last is None else _iteration(last)
        older = sorted((number, p) for number, p in numbered if number < limit and p != last)
        return [*([] if last is None else [last]), *(path for _, path in reversed(older))]

    def _tagged_checkpoint(self, folder: Path) -> Path | None:
        tag = folder / LAST_CHECKPOINT
        if not tag.is_file():
            return None
        try:
            name = tag.read_bytes()[:_MAX_TAG_BYTES].decode().strip()
            return joined_path(folder, name, where=f"'{tag}'", follow_links=True)
        except (UnsafeNameError, UnicodeDecodeError) as error:
            logger.warning("'%s' names no checkpoint of its folder: %s", tag, error)
            return None

    def _load_content(
        self,
        file: WeightFile,
        path: str,
        checkpointables: Iterable[str],
        *,
        require_all_parameters: bool,
    ) -> dict[str, Any]:
        load_weights(
            self.model,
            file.tensors,
            source=str(path),
            require_all_parameters=require_all_parameters,
        )
        if file.is_torchscript:
            _warn_of_plain_gelu(self.model, str(path))
        content = dict(file.rest)
        for key in checkpointables:
            if key not in content:
                raise ValueError(
                    f"checkpoint '{path}': holds weights but no '{key}' state to resume from; "
                    "start from it with MODEL.WEIGHTS and without --resume"
                )
            try:
                self.checkpointables[key].load_state_dict(content.pop(key))
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise ValueError(
                    f"checkpoint '{path}': its '{key}' state does not fit this run "
                    f"({type(error).__name__}: {error}); resume with the configuration that it was "
                    "trained with, or start from its weights with MODEL.WEIGHTS, without --resume "
                    "and in another OUTPUT_DIR"
                ) from error
        return content

    def save(self, name: str, *, is_last: bool = True, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` and tag it as the last checkpoint, both atomically.

        Args:
            name: file name without suffix.
            is_last: False leaves the tag as it is: --resume does not go on from this one.
            kwargs: tensors and plain containers to store besides.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        content.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        logger.info("saving checkpoint to %s", path)
        stream_error: list[OSError] = []
        try:
            write_atomically(
                path, lambda stream: torch.save(content, _Recording(stream, stream_error))
            )
            if is_last:
                self.tag_last_checkpoint(path.name)
        except (OSError, RuntimeError) as error:
            # torch's writer tells of its own surprise, not of the full disk.
            reason = error if isinstance(error, OSError) else next(iter(stream_error), None)
            if reason is None:
                raise
            raise OSError(
                f"checkpoint '{path}': could not be written ({reason.strerror or reason}); make "
                "room there"
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the file ``last_checkpoint`` that --resume reads."""
        write_atomically(
            Path(self.save_dir) / LAST_CHECKPOINT,
            lambda stream: stream.write(last_filename_basename.encode()),
        )


class _Recording:
    """A stream that remembers the errors of writing."""

    def __init__(self, stream: IO[bytes], errors: list[OSError]) -> None:
        self._stream, self._errors = stream, errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, data: Any) -> int:
        """Write as the stream does."""
        try:
            return self._stream.write(data)
        except OSError as error:
            self._errors.append(error)
            raise


def _iteration(path: Path) -> float:
    """Return the iteration in a checkpoint's name; infinity for the final and other files."""
    match = _NUMBERED_NAME.fullmatch(path.name)
    return int(match[1]) if match else math.inf


def _warn_of_plain_gelu(model: nn.Module, path: str) -> None:
    text_encoder = getattr(model, "text_encoder", None)
    if text_encoder is not None and any(isinstance(m, nn.GELU) for m in text_encoder.modules()):
        logger.warning(
            "%s: OpenAI's text towers were trained with QuickGELU, and this model's has plain "
            "GELU; set MODEL.CLIP.NAME to an architecture that ends in -quickgelu",
            path,
        )


def _require_all_parameters(model: nn.Module, report: LoadReport, path: str) -> None:
    lacking = {*report.missing, *(name for name, _, _ in report.mismatched)}
    names = [name for name, _ in model.named_parameters() if name in lacking]
    if names:
        raise ValueError(
            f"weights '{path}': {len(names)} parameters of the model are not in the file or have "
            f"another shape there: {names_by_first_part(names)}; is the configuration the one it "
            "was trained with?"
        )
