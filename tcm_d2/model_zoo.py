"""The detectors of ``configs/`` by name, with the functions of Detectron2's model zoo.

from tcm_d2 import model_zoo
model = model_zoo.get("tcm_fcos.yaml", weights="model_final.pth", device="cpu")
"""

from __future__ import annotations

from detectron2.config import CfgNode
from omegaconf import DictConfig
from torch import nn

from tcm_d2.checkpoint.load import SafeCheckpointer, load_weights
from tcm_d2.config.lazy import SUFFIX as LAZY_SUFFIX
from tcm_d2.config.lazy import load_lazy_config
from tcm_d2.config.loader import load_config
from tcm_d2.config.run import open_config
from tcm_d2.packaged_configs import find_config, list_config_names
from tcm_d2.weight_files.reading import read_weight_file


def list_config_files() -> list[str]:
    """Return the names that the other functions take, like "lazy/tcm_fcos.py"."""
    return list_config_names()


def get_config_file(config_path: str) -> str:
    """Return the full path of a configuration.

    Args:
        config_path: relative to ``configs/``, such as "tcm_fcos.yaml" or "lazy/tcm_fcos.py".

    Raises:
        ValueError: for an unknown name; near matches are named.
    """
    return str(find_config(config_path))


def get_config(config_path: str, trained: bool = False) -> CfgNode | DictConfig:
    """Return a configuration: a CfgNode of a ``.yaml``, a DictConfig of a ``.py``.

    Args:
        config_path: see `get_config_file`.
        trained: weights of ours are not published, so that True is refused.

    Raises:
        ValueError: for an unknown name, or trained weights.
    """
    _refuse_trained(trained)
    path = get_config_file(config_path)
    return load_lazy_config(path) if path.endswith(LAZY_SUFFIX) else load_config(path)


def get(
    config_path: str,
    trained: bool = False,
    device: str | None = None,
    *,
    weights: str = "",
) -> nn.Module:
    """Return a detector, in training mode as it is built (weights for inference: in evaluation).

    Args:
        config_path: see `get_config_file`.
        trained: see `get_config`.
        device: None takes the configuration's, or the CPU where there is no CUDA.
        weights: local file to load, see `SafeCheckpointer`; "" gives random weights.

    Raises:
        ValueError: for an unknown name, trained weights, or weights that do not fit.
        FileNotFoundError: the weights are missing.
    """
    _refuse_trained(trained)
    run = open_config(get_config_file(config_path))
    model = run.build_model(with_part_weights=not weights, device=device)
    if weights:
        SafeCheckpointer(model).load(weights)
    return model


def get_from_file(path: str, device: str | None = None) -> nn.Module:
    """Return the detector of a file that ``tcm-d2 convert --for-inference`` has written.

    It is in evaluation mode.

    Args:
        path: the file; it holds the configuration, too.
        device: see `get`.

    Raises:
        ValueError: it holds no configuration, or is no weight file.
        FileNotFoundError: it is missing.
    """
    model = open_config(path).build_model(with_part_weights=False, device=device)
    load_weights(model, read_weight_file(path).tensors, source=path, require_all_parameters=True)
    return model.eval()


def _refuse_trained(trained: bool) -> None:
    if trained:
        raise ValueError(
            "trained: no trained weights are published with tcm_d2; train, convert a checkpoint "
            "(docs/weights.md), and give it as weights=..."
        )
