"""The recipe of docs/published_detectors.md: from a published detector to classes of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from tcm_d2.engine import main
from tcm_d2.weight_files.reading import read_weight_file
from tests.checkpoint.published_text import fcos_text
from tests.checkpoint.test_published import detector_state, run_tool
from tests.conftest import REPO_DIR
from tests.docs.blocks import read_commands, tool_call
from tests.engine.small_detector import make_patches
from tests.weight_files.foreign import save_as_mmengine

PAGE = REPO_DIR / "docs" / "published_detectors.md"
SHORT = """
    train.max_epochs=0 train.max_iter=2 train.steps=[1] dataloader.train.total_batch_size=2
    dataloader.train.num_workers=0 dataloader.test.num_workers=0 train.device=cpu
""".split()


def test_the_documented_lines_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [call for command in read_commands(PAGE) if (call := tool_call(command))]
    (convert,) = [words for tool, words in calls if "start/fcos.pth" in words and "convert" in tool]
    (train,) = [words for tool, words in calls if "start/fcos.yaml" in words]
    monkeypatch.chdir(tmp_path)
    for folder in ("start", "data"):
        Path(folder).mkdir()
    theirs = convert[convert.index("--weights") + 1]
    save_as_mmengine(detector_state("fcos"), Path(theirs), config_text=fcos_text(), classes=())
    for name in ("train", "val"):
        make_patches(Path("sets") / name).rename(Path("data") / name)
    assert run_tool("convert", *convert) == 0
    try:
        main([*train, *SHORT])
    finally:
        for name in ("mine_train", "mine_val"):
            if name in DatasetCatalog.list():
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)
    start, trained = (
        read_weight_file(path).tensors for path in ("start/fcos.pth", "output/mine/model_final.pth")
    )
    assert trained["head.class_predictor.weight"].shape == (2, 32, 3, 3)
    # Two warm-up iterations at a small rate: the rest is what it started from, nearly.
    others = [n for n in start if not n.startswith("head.class_predictor.")]
    assert all(torch.allclose(trained[n], start[n], atol=1e-3) for n in others)
    assert torch.equal(trained["backbone.stem.conv1.weight"], start["backbone.stem.conv1.weight"])
