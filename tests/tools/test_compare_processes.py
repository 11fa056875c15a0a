"""1 process x batch 4 and 2 processes x batch 2 learn alike, with all three real heads."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.conftest import REPO_DIR

NAME = "compare_processes"
HEADS = ("tcm_fcos", "tcm_atss", "tcm_retinanet")
# Small images and few channels: twelve runs of 20 iterations.
SMALL = [
    *("MODEL.CLIP.VISION_WIDTH", "8", "MODEL.CLIP.EMBED_DIM", "32"),
    *("MODEL.CLIP.TEXT_WIDTH", "32", "MODEL.TCM.DECODER_WIDTH", "32"),
    *("MODEL.ROTATED_FPN.OUT_CHANNELS", "32", "MODEL.ROTATED_HEAD.CHANNELS", "32"),
    *("MODEL.ROTATED_HEAD.NUM_CONVS", "1", "MODEL.CLIP.POSITION_IMAGE_SIZE_PX", "64"),
]


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    """The tool as a module that child processes can import by its name."""
    sys.path.insert(0, str(REPO_DIR / "tools"))
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield importlib.import_module(NAME)
    finally:
        sys.path.remove(str(REPO_DIR / "tools"))
        torch.use_deterministic_algorithms(deterministic)
        if NAME in DatasetCatalog.list():
            DatasetCatalog.remove(NAME)
            MetadataCatalog.remove(NAME)


@pytest.fixture(scope="module")
def comparisons(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The comparisons of 20 iterations by "model norm"; SyncBN in float64."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "IMAGE_SIZE_PX", 128)
        patch.setattr(tool, "PATCH_SIZE_PX", 64)
        patch_dir = tool.make_patches(folder / "data", 1)
    common = ["--output", str(folder), "--opts", *SMALL]
    jobs = [
        *tool.make_jobs(tool.parse_args(["--norms", "FrozenBN", *common])),
        *tool.make_jobs(tool.parse_args(["--norms", "SyncBN", "--float64", *common])),
    ]
    found = tool.run_and_compare(jobs, patch_dir)
    return {f"{comparison.model} {comparison.norm}": comparison for comparison in found}


# Measured: at most 1.1e-5 in float32 (RetinaNet; the others 2e-7), where AdamW lifts rounding from
# iteration to iteration; 1.2e-7 in float64, which is the last digit of the focal loss, as fvcore
# sums it in float32.
@pytest.mark.parametrize("model", HEADS)
@pytest.mark.parametrize(("norm", "tolerance"), [("FrozenBN", 1e-4), ("SyncBN", 1e-6)])
def test_loss_curves_agree(
    comparisons: dict[str, Any], model: str, norm: str, tolerance: float
) -> None:
    comparison = comparisons[f"{model} {norm}"]
    assert len(comparison.differences) == 20
    assert comparison.losses[0][-1] < comparison.losses[0][0]
    assert max(comparison.differences) < tolerance


def test_unknown_model(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert tool.main(["--models", "yolo", "--output", str(tmp_path)]) == 1
    assert "no embedded configuration for 'yolo'; known: " in capsys.readouterr().err


def test_table(tool: ModuleType) -> None:
    comparison = tool.Comparison("tcm_fcos", "SyncBN", ([2.0, 1.0], [2.0, 1.1]))
    assert comparison.differences == pytest.approx([0.0, 0.1])
    assert "| 1 | 1.000000 | 1.100000 | 1.0e-01 |" in comparison.as_table(4).splitlines()
