"""Reading configurations: what is accepted, and what the refusals say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcm_d2.config import get_tcm_config, load_config


def _write(folder: Path, text: str, name: str = "c.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_base_then_file_then_overrides(tmp_path: Path) -> None:
    _write(tmp_path, "SOLVER:\n  BASE_LR: 1e-4\n  IMS_PER_BATCH: 4\nSEED: 7\n", "base.yaml")
    path = _write(tmp_path, "_BASE_: base.yaml\nSOLVER:\n  IMS_PER_BATCH: 2\n")
    cfg = load_config(path, ["SOLVER.MAX_EPOCHS", "3", "DATASETS.TRAIN", "('a', 'b')"])
    assert cfg.SOLVER.BASE_LR == pytest.approx(1e-4) and isinstance(cfg.SOLVER.BASE_LR, float)
    assert (cfg.SEED, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_EPOCHS) == (7, 2, 3)
    assert cfg.DATASETS.TRAIN == ("a", "b")
    assert not cfg.is_frozen()


def test_dumped_config_loads_back_unchanged(tmp_path: Path) -> None:
    cfg = load_config("", ["SOLVER.BASE_LR", "1", "MODEL.WEIGHTS", "123", "SEED", "5"])
    assert cfg.SOLVER.BASE_LR == 1.0 and cfg.MODEL.WEIGHTS == "123"
    assert load_config(_write(tmp_path, cfg.dump())) == cfg


def test_empty_path_gives_the_defaults() -> None:
    assert load_config("") == get_tcm_config()


def test_yaml_that_runs_code_is_refused(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    text = f"SEED: 1\nOUTPUT_DIR: !!python/object/apply:os.system ['touch {flag}']\n"
    path = _write(tmp_path, text)
    child = _write(tmp_path, "_BASE_: c.yaml\n", "child.yaml")
    for name in (path, child):
        with pytest.raises(ValueError, match=r"c\.yaml:2: refused: .*run code"):
            load_config(name)
    assert not flag.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER:\n  BASE_LRR: 1.0\n", r"c\.yaml: unknown key 'SOLVER\.BASE_LRR'.*SOLVER\.BASE_LR"),
        ("BASE_LR: 1.0\n", r"unknown key 'BASE_LR'; near matches: SOLVER\.BASE_LR"),
        ("SOLVER: 3\n", r"SOLVER is a section"),
        ("SEED: [1]\n", r"c\.yaml: SEED: expected int \(default -1\), got list"),
        ("MODEL:\n  MASK_ON: maybe\n", r"MODEL\.MASK_ON: expected bool.*True or False"),
        ("DATASETS:\n  TRAIN: dota\n", r"a single entry is written \"\('dota',\)\""),
        ("- 1\n- 2\n", r"expected a mapping"),
        ("SEED: [1\n", r"not a YAML file"),
        ("_BASE_: nowhere.yaml\n", r"c\.yaml: _BASE_: no file"),
        ("_BASE_: https://host/x.yaml\n", r"nothing is downloaded"),
        ("_BASE_: c.yaml\n", r"in a circle"),
        ("VERSION: 1\n", r"VERSION: expected 2, got 1"),
    ],
)
def test_refusals_name_file_and_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_config(_write(tmp_path, text))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SEED"], r"expected KEY VALUE pairs, got 1 entries"),
        (["SOLVER.BASE_LR", "0.1", "--eval-only"], r"'--eval-only' stands after"),
        (["SOLVER.STEP", "0.1"], r"command line: unknown key 'SOLVER\.STEP'.*SOLVER\.STEPS"),
        (["SEED.X", "1"], r"unknown key 'SEED\.X'"),
        (["SOLVER.IMS_PER_BATCH", "two"], r"SOLVER\.IMS_PER_BATCH: expected int .*got str 'two'"),
        (["SOLVER.IMS_PER_BATCH", "2.5"], r"expected int .*got float 2\.5"),
    ],
)
def test_override_errors(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config("", overrides)


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    _write(tmp_path, "SEED: 1\n", "tcm_fcos.yaml")
    with pytest.raises(FileNotFoundError, match=r"near it: tcm_fcos\.yaml"):
        load_config(tmp_path / "tcm_fcso.yaml")


def test_frozen_config_is_not_changed() -> None:
    cfg = get_tcm_config()
    cfg.freeze()
    from tcm_d2.config import merge_overrides

    with pytest.raises(ValueError, match="frozen"):
        merge_overrides(cfg, ["SEED", "1"])
