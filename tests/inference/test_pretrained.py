from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from tcm_d2.checkpoint.load import EMA_KEY
from tcm_d2.config.run import open_config
from tcm_d2.inference.find_files import DetectorFiles
from tcm_d2.inference.model_images import to_model_image
from tcm_d2.inference.pretrained import Pretrained, build_pretrained
from tests.engine.small_detector import small_config, write_config


def load(config: Path, weights: Path, *overrides: str) -> Pretrained:
    return build_pretrained(
        DetectorFiles(config, weights), device="cpu", class_names=None, overrides=overrides
    )


def test_overrides_reach_the_configuration_of_a_file(tmp_path: Path) -> None:
    source = build_model(small_config(tmp_path))
    torch.save({"model": source.state_dict()}, tmp_path / "w.pth")
    trained = load(tmp_path / "small.yaml", tmp_path / "w.pth", "INPUT.RESIZE_FACTOR_TEST", "0.5")
    assert not trained.model.training and trained.resize_factor == 0.5
    mine, theirs = trained.model.state_dict(), source.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_the_average_is_taken_where_the_configuration_keeps_one(tmp_path: Path) -> None:
    state = build_model(small_config(tmp_path)).state_dict()
    average = {name: value + 1 for name, value in state.items()}
    torch.save({"model": state, EMA_KEY: average}, tmp_path / "w.pth")
    for overrides, expected in (((), state), (("SOLVER.EMA_DECAY", "0.9"), average)):
        mine = load(tmp_path / "small.yaml", tmp_path / "w.pth", *overrides).model.state_dict()
        assert all(torch.equal(mine[name], expected[name]) for name in expected)


def test_files_that_lack_parameters_are_refused(tmp_path: Path) -> None:
    state = build_model(small_config(tmp_path)).state_dict()
    state = {name: value for name, value in state.items() if not name.startswith("head.")}
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="head"):
        load(write_config(tmp_path), tmp_path / "w.pth")


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_the_model_sees_what_the_mapper_gives(
    tmp_path: Path, image_format: str, factor: float
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture[..., ::-1])
    keys = ["INPUT.FORMAT", image_format, "INPUT.RESIZE_FACTOR_TEST", str(factor)]
    mapped = open_config(write_config(tmp_path), keys).build_mapper(is_train=False)(
        {"file_name": str(tmp_path / "a.png")}
    )
    assert mapped is not None
    shown = to_model_image(picture, image_format=image_format, resize_factor=factor)
    assert torch.equal(shown, mapped["image"])
