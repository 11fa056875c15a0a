from __future__ import annotations

import json
from pathlib import Path

import pytest
from detectron2.modeling import build_model

from tcm_d2.cli import analyze
from tcm_d2.cli.main import run_command
from tests.conftest import REPO_DIR
from tests.engine.small_detector import small_config, write_config


def test_counts_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    model = build_model(small_config(tmp_path))
    rows = {row.name: row for row in analyze.count(model, (256, 384), depth=2)}
    # The head's class predictor: 3 x 3 on five levels, from stride 8 to 128.
    conv = model.head.class_predictor
    places = 32 * 48 + 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3
    counted = rows["head.class_predictor"]
    assert counted.multiply_adds == places * conv.out_channels * conv.in_channels * 9
    assert counted.activations == places * conv.out_channels
    # The attention pool: 1 + 8 x 12 tokens; four projections and two products of attention.
    pool = model.attention_pool
    width, out = pool.q_proj.in_features, pool.c_proj.out_features
    products = 97 * width * (3 * pool.q_proj.out_features) + 97 * width * out
    attention = 2 * 97 * 97 * pool.q_proj.out_features
    assert rows["attention_pool"].multiply_adds == products + attention
    parts = [row for name, row in rows.items() if name and "." not in name]
    total = rows[""]
    assert total.num_parameters == sum(p.numel() for p in model.parameters())
    assert total.num_parameters == sum(row.num_parameters for row in parts)
    assert total.multiply_adds == pytest.approx(sum(row.multiply_adds for row in parts), rel=0.01)
    assert rows["text_encoder"].multiply_adds > 0 and rows["text_encoder"].num_trainable == 0


def test_sizes_are_padded_and_counts_repeat(tmp_path: Path) -> None:
    model = build_model(small_config(tmp_path))
    assert analyze.count(model, (256, 256), depth=1) == analyze.count(model, (250, 230), depth=1)


def test_command_line_with_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config-file", str(write_config(tmp_path)), "--size", "256"]
    arguments += ["--json", str(tmp_path / "counts.json"), "MODEL.TCM.ENABLED", "False"]
    assert run_command("analyze", arguments) == 0
    out = capsys.readouterr().out
    assert "backbone" in out and "tcm" not in out.split("\n", 1)[1]
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts["total"]["multiply_adds"] > counts["head"]["multiply_adds"] > 0


def test_command_line_with_python(capsys: pytest.CaptureFixture[str]) -> None:
    small = {"clip.name": "custom", "clip.embed_dim": 32, "clip.vision_layers": "[1,1,1,1]"}
    small |= {"clip.vision_width": 16, "clip.text_width": 32, "clip.text_heads": 1}
    small |= {"clip.text_layers": 1, "fpn.out_channels": 32, "head.channels": 64}
    arguments = ["--config-file", str(REPO_DIR / "configs" / "lazy" / "tcm_atss.py")]
    arguments += ["--size", "256x384", *(f"model.{k}={v}" for k, v in small.items())]
    assert run_command("analyze", arguments) == 0
    out = capsys.readouterr().out
    assert "256 x 384" in out and "attention_pool" in out


def test_bad_configurations_get_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("analyze", ["--config-file", "nowhere.yaml"]) == 1
    assert "nowhere.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_command("analyze", ["--config-file", "x.yaml", "--size", "0"])
