"""Configurations by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from omegaconf import DictConfig

from tcm_d2 import model_zoo


def test_every_published_detector_has_a_name_in_both_doors() -> None:
    names = model_zoo.list_config_files()
    for stem in ("tcm_fcos", "tcm_atss", "tcm_retinanet"):
        assert {f"{stem}.yaml", f"lazy/{stem}.py"} <= set(names)
    assert all(Path(model_zoo.get_config_file(name)).is_file() for name in names)


def test_configurations_come_in_the_type_of_their_door() -> None:
    cfg = model_zoo.get_config("tcm_atss.yaml")
    assert isinstance(cfg, CfgNode) and cfg.MODEL.META_ARCHITECTURE == "TCMRotatedATSS"
    lazy = model_zoo.get_config("lazy/tcm_retinanet.py")
    assert isinstance(lazy, DictConfig) and list(lazy.train.step_epochs) == [8, 11]


def test_model_takes_weights_by_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = model_zoo.get("embedded_tcm_retinanet.yaml", device="cpu")
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    again = model_zoo.get("embedded_tcm_retinanet.yaml", weights=str(tmp_path / "w.pth"))
    name = "head.class_predictor.weight"
    assert torch.equal(model.state_dict()[name], again.state_dict()[name])
    assert again.device.type == "cpu" and again.training


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"'tcm_fcso\.yaml'; near matches: tcm_fcos\.yaml"):
        model_zoo.get_config_file("tcm_fcso.yaml")
    with pytest.raises(ValueError, match="no trained weights are published"):
        model_zoo.get("tcm_fcos.yaml", trained=True)
