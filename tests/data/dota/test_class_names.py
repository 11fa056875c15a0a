"""Class names: lists by name and by file, and names that differ in blanks, "_" and "-" only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcm_d2.cli.main import run_command
from tcm_d2.data.dota.classes import ClassSpelling, expand_class_names
from tcm_d2.data.dota.labels import LabelError, read_label
from tcm_d2.evaluation.scoring.annotations import read_annotations

LINE = "0 0 10 0 10 10 0 10 {} 0\n"


def test_blanks_underscores_and_hyphens_are_equal() -> None:
    spelling = ClassSpelling(["ground track field", "small-vehicle", "a_b", "a-b"])
    assert spelling.find("ground-track_field") == "ground track field"
    assert spelling.find("small_vehicle") == "small-vehicle"
    # Where that would be ambiguous, only the name itself is.
    assert spelling.find("a_b") == "a_b" and spelling.find("a b") is None
    assert spelling.find("Small-vehicle") is None


def test_label_files_in_another_spelling(tmp_path: Path) -> None:
    """They were refused: unknown class 'small_vehicle'; near matches: small-vehicle."""
    path = tmp_path / "P1.txt"
    path.write_text(LINE.format("small_vehicle") + LINE.format("ship"))
    label = read_label(path, classes=["small vehicle", "ship"])
    assert [o.class_name for o in label.objects] == ["small vehicle", "ship"]
    assert [o.class_name for o in read_label(path).objects] == ["small_vehicle", "ship"]
    with pytest.raises(LabelError, match="unknown class 'ship'"):
        read_label(path, classes=["small-vehicle"])
    found = read_annotations(tmp_path, image_ids=["P1"], classes=["small-vehicle"])
    assert len(found.by_class["small-vehicle"].image_index) == 1
    assert found.other_classes == {"ship": 1}


def test_names_from_a_file(tmp_path: Path) -> None:
    data, text = tmp_path / "data.yaml", tmp_path / "classes.txt"
    data.write_text("names: {1: ship, 0: small vehicle}")
    text.write_text("small vehicle\nship\n")
    for path in (data, text):
        assert expand_class_names([str(path)]) == ["small vehicle", "ship"]
    assert expand_class_names(["DOTA-v1.5"])[-1] == "container-crane"
    assert expand_class_names(["ship", "data.yaml"]) == ["ship", "data.yaml"]
    data.write_text("names: {0: ship, 2: plane}")
    with pytest.raises(ValueError, match="expected names of the indices 0 to 1, got 0, 2"):
        expand_class_names([str(data)])
    data.write_text("names: [small-vehicle, small_vehicle]")
    with pytest.raises(ValueError, match="expected different ones, got small-vehicle, small_veh"):
        expand_class_names([str(data)])


def test_every_command_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("names: [ship, plane]")
    for name, needed in (
        ("split", ["--images", "a", "--labels", "b", "--output", "c"]),
        ("evaluate", ["--detections", "a", "--labels", "b"]),
        ("predict", ["--images", "a", "--output", "c"]),
    ):
        monkeypatch.setattr(f"tcm_d2.cli.{name}.run", lambda args: args.classes)
        assert run_command(name, [*needed, "--classes", str(path)]) == ["ship", "plane"]
        assert run_command(name, [*needed, "--classes", "nowhere.yaml"]) == 2
        assert "classes: 'nowhere.yaml': no such file" in capsys.readouterr().err
