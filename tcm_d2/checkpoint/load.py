"""The checkpointer: Detectron2's, with safe reading, one report per file and atomic writes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from detectron2.checkpoint import DetectionCheckpointer
from tabulate import tabulate
from torch import Tensor, nn

from tcm_d2.checkpoint.convert import convert_mmrotate_state_dict
from tcm_d2.checkpoint.reading import read_checkpoint

logger = logging.getLogger(__name__)

# Names shown per row of the report and per refusal.
MAX_NAMES_SHOWN = 6


class LoadReport(NamedTuple):
    """What became of each tensor of a file and of the model.

    Attributes:
        loaded: names copied into the model.
        missing: names of parameters and buffers of the model that the file lacks.
        unexpected: names in the file that the model lacks.
        mismatched: (name, shape in the file, shape in the model); the model's value stays.
        converted_from: "" for our own names, else what the names were.
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    converted_from: str

    def as_table(self) -> str:
        """Return the report as text, a few names per row."""
        shapes = [f"{name} {theirs} -> {ours}" for name, theirs, ours in self.mismatched]
        rows = [
            ["loaded", len(self.loaded), ""],
            ["missing in the file", len(self.missing), _some(self.missing)],
            ["unexpected in the file", len(self.unexpected), _some(self.unexpected)],
            ["other shape, not loaded", len(shapes), _some(shapes)],
        ]
        return str(tabulate(rows, ["tensors", "number", "names"], tablefmt="simple"))


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> LoadReport:
    """Copy tensors into ``model`` where name and shape agree, and log what became of each.

    mmrotate's names are translated first.

    Args:
        model: changed in place.
        tensors: {name: tensor}.
        source: the file's name, for messages.

    Raises:
        ValueError: when no tensor fits.
    """
    own = model.state_dict()
    tensors, converted_from, left_over = _in_our_names(tensors, own.keys())
    fitting = {n: t for n, t in tensors.items() if n in own and t.shape == own[n].shape}
    report = LoadReport(
        loaded=sorted(fitting),
        missing=sorted(own.keys() - tensors.keys()),
        unexpected=sorted(tensors.keys() - own.keys()) + left_over,
        mismatched=[
            (name, tuple(tensor.shape), tuple(own[name].shape))
            for name, tensor in tensors.items()
            if name in own and name not in fitting
        ],
        converted_from=converted_from,
    )
    if not fitting:
        raise ValueError(
            f"weights '{source}': fits nothing in this model: {_looks_like(tensors)}, while the "
            f"model has names like {_some(list(own))}"
        )
    model.load_state_dict(fitting, strict=False)
    complete = not (report.missing or report.unexpected or report.mismatched)
    logger.log(
        logging.INFO if complete else logging.WARNING,
        "weights from %s%s:\n%s",
        source,
        f" (names translated from {converted_from}'s)" if converted_from else "",
        report.as_table(),
    )
    return report


def _in_our_names(
    tensors: Mapping[str, Tensor], own_names: Iterable[str]
) -> tuple[dict[str, Tensor], str, list[str]]:
    """Return (tensors, whose names they had or "", names that could not be translated)."""
    own_names = set(own_names)
    num_known = sum(name in own_names for name in tensors)
    converted = convert_mmrotate_state_dict(tensors)
    if sum(name in own_names for name in converted.state_dict) <= num_known:
        return dict(tensors), "", []
    if converted.dead:
        logger.info(
            "%d tensors that the published model holds but never uses: %s",
            len(converted.dead),
            _some(converted.dead),
        )
    return converted.state_dict, "mmrotate", list(converted.unknown)


def _looks_like(tensors: Mapping[str, Tensor]) -> str:
    shapes = [f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()]
    text = f"the file holds {len(tensors)} tensors, like {_some(shapes)}"
    names = tuple(tensors)
    for prefix, guess in (
        ("visual.", "a whole CLIP model: give it as MODEL.CLIP.WEIGHTS"),
        ("proposal_generator.", "a Detectron2 two-stage detector"),
        ("bbox_head.", "an mmdetection or mmrotate detector of another kind"),
        ("layer1.", "a bare ResNet"),
    ):
        if any(name.startswith(prefix) for name in names):
            return f"{text}; it looks like {guess}"
    return text


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:MAX_NAMES_SHOWN])
    return shown + (f", ... ({len(names)} in all)" if len(names) > MAX_NAMES_SHOWN else "")


class SafeCheckpointer(DetectionCheckpointer):  # type: ignore[misc]
    """Save and load a model with its training state, without ever unpickling objects.

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
            path: see `read_checkpoint`; empty keeps the model as it is.
            checkpointables: names to load from the file; None for all that this object has.
            require_all_parameters: also refuse a file that leaves a parameter as it was.

        Returns:
            What the file holds besides.

        Raises:
            FileNotFoundError, ValueError: see `read_checkpoint` and `load_weights`; or parameters
                are missing and required.
        """
        if not path:
            logger.info("no weights given: the model keeps those it was built with")
            return {}
        content = read_checkpoint(path)
        report = load_weights(self.model, content.pop("model"), source=str(path))
        if require_all_parameters:
            _require_all_parameters(self.model, report, str(path))
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key not in content:
                raise ValueError(
                    f"checkpoint '{path}': holds weights but no '{key}' state to resume from; "
                    "start from it with MODEL.WEIGHTS and without --resume"
                )
            self.checkpointables[key].load_state_dict(content.pop(key))
        return content

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` and tag it as the last checkpoint, both atomically.

        Args:
            name: file name without suffix.
            kwargs: tensors and plain containers to store besides.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        content.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        logger.info("saving checkpoint to %s", path)
        write_atomically(path, lambda stream: torch.save(content, stream))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the file ``last_checkpoint`` that --resume reads."""
        write_atomically(
            Path(self.save_dir) / "last_checkpoint",
            lambda stream: stream.write(last_filename_basename.encode()),
        )


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file through ``write`` so that ``path`` is never half written, even after a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _require_all_parameters(model: nn.Module, report: LoadReport, path: str) -> None:
    lacking = {*report.missing, *(name for name, _, _ in report.mismatched)}
    names = [name for name, _ in model.named_parameters() if name in lacking]
    if names:
        raise ValueError(
            f"weights '{path}': {len(names)} parameters of the model are not in the file or have "
            f"another shape there: {_some(names)}; is the configuration the one it was trained "
            "with?"
        )
