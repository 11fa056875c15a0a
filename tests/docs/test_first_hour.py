"""The section "Your own data, in three lines" of GETTING_STARTED.md, run as it is, but small."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tcm_d2.synthetic import make_synthetic_dota
from tests.docs.blocks import ROOT, list_documents, read_blocks

HEADING = "## Your own data, in three lines"
# Appended to a tool's arguments: the same steps on tiny data.
SMALLER = {
    "split_dota.py": "--size 256 --gap 64 --workers 1 --quiet",
    "train_net.py": "SOLVER.MAX_ITER 2 SOLVER.STEPS '(1,)' SOLVER.IMS_PER_BATCH 2 "
    "DATALOADER.NUM_WORKERS 0 MODEL.DEVICE cpu",
}


def own_data_script() -> str:
    """Return the section's commands, by --data and by hand, with a tiny detector and no CLIP."""
    path = ROOT / "GETTING_STARTED.md"
    text = path.read_text(encoding="utf-8")
    first_line = text[: text.index(HEADING)].count("\n") + 1
    blocks = [b for b in read_blocks(path) if b.line > first_line and not b.language]
    script = "\n".join(block.text for block in blocks[:2]).replace(
        "configs/tcm_fcos.yaml", "configs/embedded_tcm_fcos.yaml"
    )
    assert "MODEL.CLIP.WEIGHTS /weights/RN50.pt" in script
    script = script.replace("MODEL.CLIP.WEIGHTS /weights/RN50.pt", "")
    commands = []
    for line in re.sub(r"\\\n\s*", " ", script).splitlines():
        tool = re.search(r"tools/(\w+\.py)", line)
        commands.append(f"{line} {SMALLER.get(tool[1], '') if tool else ''}")
    return "\n".join(commands)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """Return a folder like a checkout with the data of the section: ships/{train,val}."""
    make_synthetic_dota(
        tmp_path / "ships", num_train=3, num_val=2, image_size_px=256, seed=3, classes=["ship"]
    )
    text = "train: train/images\nval: val/images\nnames: [ship]\n"
    (tmp_path / "ships/data.yaml").write_text(text)
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    image = next((tmp_path / "ships/val/images").iterdir())
    shutil.copy(image, tmp_path / "harbour.tif")
    return tmp_path


def test_own_data_in_three_lines_and_by_hand(workplace: Path) -> None:
    assert ROOT / "GETTING_STARTED.md" in list_documents()
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", own_data_script()],
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    for name in ("ships", "by_hand"):
        scores = json.loads((workplace / f"output/{name}/inference/ships_val/ap.json").read_text())
        assert list(scores["classes"]) == ["ship"]
    assert (workplace / "output/ships/model_final.pth").is_file()
    assert any((workplace / "output/look").iterdir())
