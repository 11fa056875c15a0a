"""Configurations by name, wherever the command runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcm_d2.config.run import open_config
from tcm_d2.inference.find_files import find_detector_files
from tcm_d2.packaged_configs import config_folder, list_config_names, locate_config


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["tcm_fcos.yaml", "configs/tcm_fcos.yaml", "lazy/tcm_fcos.py"])
def test_a_name_opens_the_packaged_file_and_says_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = config_folder() / name.removeprefix("configs/")
    assert open_config(name).source == str(file)
    assert [record.getMessage() for record in caplog.records] == [
        f"configuration '{name}': no such file here, taking {file}"
    ]


def test_a_file_that_is_there_comes_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tcm_fcos.yaml").write_text("SEED: 7\n")
    assert locate_config("tcm_fcos.yaml") == Path("tcm_fcos.yaml") and not caplog.records


def test_a_name_does_beside_weights(tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    found = find_detector_files("w.pth", weights=None, config_file="tcm_atss.yaml")
    assert found.config == config_folder() / "tcm_atss.yaml"


def test_unknown_names_stay_unknown() -> None:
    assert "nowhere.yaml" not in list_config_names()
    with pytest.raises(FileNotFoundError, match=r"config file 'nowhere\.yaml' does not exist"):
        open_config("nowhere.yaml")
    with pytest.raises(FileNotFoundError, match=r"with tcm_d2 come tcm_fcos\.yaml"):
        open_config("tcm_fcso.yaml")
