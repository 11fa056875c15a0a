"""The score on labelled photos: sets of several folders, renamed classes, numbers as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tcm_d2.synthetic import SyntheticConfig, make_synthetic_dota
from tools.benchmark import main


def test_sets_are_scored_over_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = SyntheticConfig.easy(image_size_px=256)
    make_synthetic_dota(
        tmp_path, num_train=3, num_val=2, image_size_px=256, seed=8, config=config, num_workers=0
    )
    for path in (tmp_path / "train/labelTxt").iterdir():
        path.write_text(path.read_text().replace(" ship ", " boat "))
    folders = [
        f"both={tmp_path}/{split}/images={tmp_path}/{split}/labelTxt" for split in ("train", "val")
    ]
    out = tmp_path / "numbers.json"
    arguments = ["--images", *folders, "--rename", "boat=ship", "--scales", "1"]
    drawn = ["--pictures", str(tmp_path / "drawn")]
    assert main(["real_photos", *arguments, *drawn, "--threads", "1", "--json", str(out)]) == 0
    numbers = json.loads(out.read_text())["both"]
    assert "ship" in numbers["classes"] and "boat" not in numbers["classes"]
    assert numbers["mean"] > 30  # scenes of the kind it was trained on
    assert len(list((tmp_path / "drawn").iterdir())) == 5
    assert "\nboth: tcm_atss_embedded, scores from 0.02" in capsys.readouterr().out


def test_a_set_needs_its_three_parts(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["real_photos", "--images", "only_a_folder"])
    assert "expected NAME=IMAGES=LABELTXT, got 'only_a_folder'" in capsys.readouterr().err
