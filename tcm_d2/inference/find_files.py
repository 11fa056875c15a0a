"""Find the configuration and the weights of a trained detector from what a user points at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tcm_d2.checkpoint.published import is_published
from tcm_d2.config.run import WEIGHT_SUFFIXES, YAML_SUFFIXES, open_config
from tcm_d2.config.saved_copy import COPY_NAMES, holds_config
from tcm_d2.inference.bundled import find_bundled, list_bundled
from tcm_d2.messages import near_match_hint
from tcm_d2.packaged_configs import locate_config
from tcm_d2.weight_files.hub import local_weights
from tcm_d2.weight_files.reading import read_weight_file

_FINAL_WEIGHTS = ("model_final.pth", "model.safetensors", "model_final.safetensors")
_LAST_CHECKPOINT = "last_checkpoint"


class DetectorFiles(NamedTuple):
    """The two files that a trained detector consists of."""

    config: Path
    weights: Path


def find_detector_files(
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None,
    config_file: str | os.PathLike[str] | None,
) -> DetectorFiles:
    """Return the configuration and the weights that a path stands for.

    Args:
        path: an output folder, a weight file, a configuration, a name of `list_bundled`, or weights
            as ``hf://...``.
        weights: the weights, where ``path`` is a configuration or a folder with several.
        config_file: the configuration, where it does not lie beside the weights.

    Raises:
        FileNotFoundError: something is not there; says what was looked for.
        ValueError: several files fit, or the path is of no kind known here.
    """
    target = find_bundled(path) or locate_config(local_weights(path))
    config = None if config_file is None else _existing(locate_config(config_file), "configuration")
    chosen = None if weights is None else _existing(weights, "weights")
    if target.is_dir():
        return DetectorFiles(config or _config_in(target), chosen or _weights_in(target))
    if not target.is_file():
        raise FileNotFoundError(_missing_message(target))
    suffix = target.suffix.lower()
    if suffix in WEIGHT_SUFFIXES:
        if chosen is not None:
            raise ValueError(f"weights: given twice, as {target} and as {chosen}; give one")
        return DetectorFiles(config or _config_of(target), target)
    if suffix not in (*YAML_SUFFIXES, ".py"):
        raise ValueError(
            f"{target}: expected a folder, a weight file ({', '.join(WEIGHT_SUFFIXES)}) or a "
            f"configuration (.yaml, .py), got '{suffix or 'no suffix'}'"
        )
    if config is not None:
        raise ValueError(f"configuration: given twice, as {target} and as {config}; give one")
    return DetectorFiles(target, chosen or _weights_of(target))


def _existing(path: str | os.PathLike[str], what: str) -> Path:
    found = Path(local_weights(path)).expanduser()
    if not found.is_file():
        raise FileNotFoundError(f"{what} '{found}': no such file{_near(found)}")
    return found


def _missing_message(path: Path) -> str:
    return (
        f"'{path}': no such file or folder{_near(path)}; expected an output folder with "
        f"{COPY_NAMES[0]} and {_FINAL_WEIGHTS[0]}, a weight file with {COPY_NAMES[0]} beside "
        f"it, a configuration, or a bundled detector ({', '.join(list_bundled())})"
    )


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor is there a folder '{path.parent}')"
    return near_match_hint(path.name, [p.name for p in path.parent.iterdir()])


def _config_in(folder: Path, *, beside: Path | None = None) -> Path:
    names = [f"{beside.stem}.yaml", *COPY_NAMES] if beside else list(COPY_NAMES)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"'{beside or folder}': found no configuration ({', '.join(names)} in {folder}); training "
        "writes one there, or name it: config_file='configs/tcm_fcos.yaml' (--config-file)"
    )


def _config_of(weights: Path) -> Path:
    """Return the configuration beside weights, or the weights themselves where it is in them.

    Those of published detectors tell theirs, or what is missing.
    """
    try:
        return _config_in(weights.parent, beside=weights)
    except FileNotFoundError:
        if not _has_config_inside(weights):
            raise
    return weights


def _has_config_inside(weights: Path) -> bool:
    try:
        file = read_weight_file(weights)
    except ValueError:  # said in full where the weights are loaded
        return False
    return holds_config(file) or is_published(file)


def _weights_in(folder: Path) -> Path:
    for name in _FINAL_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    last = folder / _LAST_CHECKPOINT
    if last.is_file():
        name = last.read_text(encoding="utf-8").strip()
        if Path(name).name == name and (folder / name).is_file():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.suffix in WEIGHT_SUFFIXES and p.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"'{folder}': holds several weight files ({', '.join(p.name for p in found[:6])}); "
            "give the path of one"
        )
    raise FileNotFoundError(
        f"'{folder}': found no weights ({', '.join(_FINAL_WEIGHTS)} or one "
        f"{' or '.join(WEIGHT_SUFFIXES)} file); has the training finished?"
    )


def _weights_of(config: Path) -> Path:
    """Return the weights that a configuration names, or those beside it."""
    name = open_config(config).train.init_checkpoint
    if name:
        return _existing(name, f"weights named in {config}:")
    try:
        return _weights_in(config.parent)
    except (FileNotFoundError, ValueError) as error:
        raise FileNotFoundError(
            f"'{config}': a configuration without weights ({error}). Untrained, it would find "
            "nothing: give trained ones with weights='model_final.pth' (--weights)"
        ) from None
