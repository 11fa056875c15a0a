from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tcm_d2.cli.main import run_command


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("images", "labelTxt"):
        (tmp_path / folder).mkdir()
    image = np.full((96, 128, 3), 90, dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / "images" / "P1.png"), image)
    (tmp_path / "labelTxt" / "P1.txt").write_text("20 20 60 20 60 44 20 44 ship 0\n")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "file_name"), [("annotations", "P1.png"), ("loader", "P1_loaded.png")]
)
def test_draws_what_is_annotated_and_what_is_loaded(
    root: Path, source: str, file_name: str
) -> None:
    arguments = ["--images", root / "images", "--labels", root / "labelTxt"]
    arguments += ["--output", root / "pictures", "--source", source, "--class-masks"]
    assert run_command("draw-data", [str(argument) for argument in arguments]) == 0
    picture = cv2.imread(str(root / "pictures" / file_name))
    assert picture.shape == (96, 128, 3)
    assert (picture != 90).any()


def test_missing_folders_get_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("draw-data", ["--patch-dir", str(tmp_path / "nowhere")]) == 1
    assert "tcm-d2 split" in capsys.readouterr().err
