"""The CLIP in this package: small, read like OpenAI's, and knowing what it was trained on."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from detectron2.modeling import build_model

from benchmarks.embedded_clip import load_towers, pointing, zero_shot
from tcm_d2.config import load_config
from tcm_d2.inference.bundled import list_bundled
from tcm_d2.modeling.clip.weights import EMBEDDED_FILE, EMBEDDED_NAME
from tcm_d2.synthetic.captioned_crops import render_scene
from tests.conftest import REPO_DIR

MAX_BYTES = 8_000_000


def test_its_file_is_small_and_no_detector() -> None:
    assert EMBEDDED_FILE.stat().st_size < MAX_BYTES
    assert EMBEDDED_FILE.stem not in list_bundled()


def test_it_names_and_finds_what_is_in_scenes_that_it_never_saw() -> None:
    scenes = [render_scene(3, 1, index) for index in range(0, 24, 4)]
    towers = load_towers(EMBEDDED_NAME)
    hits, chances, _ = pointing(towers, scenes)
    assert np.mean([np.mean(found) for found in hits.values()]) > 0.8
    assert np.mean([np.mean(part) for part in chances.values()]) < 0.3
    assert np.mean(list(zero_shot(towers, scenes).values())) > 0.7


def test_the_embedded_detectors_start_from_it(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(REPO_DIR / "configs" / "embedded_tcm_fcos.yaml")
    cfg.MODEL.DEVICE = "cpu"
    assert cfg.MODEL.CLIP.WEIGHTS == EMBEDDED_NAME
    with caplog.at_level(logging.INFO):
        build_model(cfg)
    assert "embedded: loaded" in caplog.text and "mean nothing" not in caplog.text
