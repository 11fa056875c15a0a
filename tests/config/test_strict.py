"""No key of Detectron2 is ignored in silence: it has its effect, or it is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from detectron2.config import CfgNode, get_cfg

from tcm_d2.config import get_tcm_config, load_config
from tcm_d2.config.strict import WatchedConfig, leaves
from tcm_d2.config.tree import config_tree

# Says what format a file has.
NOT_OF_A_RUN = {"VERSION"}
DETECTRON2_KEYS = sorted(key for key, _ in leaves(get_cfg()) if key not in NOT_OF_A_RUN)
HAVE_AN_EFFECT = {
    *("MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.WEIGHTS", "MODEL.DEVICE"),
    *("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT", "DATASETS.TRAIN", "DATASETS.TEST"),
    *("DATALOADER.NUM_WORKERS", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "TEST.EVAL_PERIOD"),
    *("SOLVER.LR_SCHEDULER_NAME", "SOLVER.MAX_ITER", "SOLVER.BASE_LR", "SOLVER.STEPS"),
    *("SOLVER.GAMMA", "SOLVER.MOMENTUM", "SOLVER.NESTEROV", "SOLVER.WEIGHT_DECAY"),
    *("SOLVER.WARMUP_ITERS", "SOLVER.WARMUP_FACTOR", "SOLVER.CHECKPOINT_PERIOD"),
    *("SOLVER.IMS_PER_BATCH", "SOLVER.AMP.ENABLED", "OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK"),
    *("VIS_PERIOD", "SOLVER.CLIP_GRADIENTS.ENABLED", "SOLVER.CLIP_GRADIENTS.NORM_TYPE"),
    *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE",),
}


def _get(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    section, _, last = key.rpartition(".")
    (_get(cfg, section) if section else cfg)[last] = value


def _other(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, (list, tuple)):
        return type(value)([*value, *(value[-1:] or ["x"])])
    return 1


@pytest.mark.parametrize("key", DETECTRON2_KEYS)
def test_a_key_has_an_effect_or_is_refused(key: str) -> None:
    cfg = get_tcm_config()
    if ".CLIP_GRADIENTS." in key:  # what is switched off may say what it likes
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    before = config_tree(cfg)
    _set(cfg, key, _other(_get(cfg, key)))
    try:
        after = config_tree(cfg)
    except ValueError as error:
        assert key.rpartition(".")[2] in str(error) and key not in (
            HAVE_AN_EFFECT
            - {"MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "SOLVER.LR_SCHEDULER_NAME"}
        )
    else:
        assert after != before and key in HAVE_AN_EFFECT


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["INPUT.MIN_SIZE_TEST", "800"], r"MIN_SIZE_TEST .*: use INPUT\.RESIZE_FACTOR_TEST"),
        (["TEST.DETECTIONS_PER_IMAGE", "500"], r"default 100, got 500\): use MODEL\.ROTATED_HEAD"),
        (["SOLVER.LR_SCHEDULER_NAME", "StepLR"], r"expected 'WarmupMultiStepLR' or 'WarmupCos"),
        (["MODEL.BACKBONE.NAME", "build_resnt_backbone"], r"near matches: .*build_resnet_backbone"),
        (["MODEL.META_ARCHITECTURE", "TCMRotatedFCS"], r"near matches: TCMRotatedFCOS"),
    ],
)
def test_refusals_say_what_to_use(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_tree(load_config("", overrides))


def test_own_keys_without_an_effect_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config_tree(load_config("", ["MODEL.ROTATED_HEAD.ATSS_TOPK", "5"]))
    assert "no effect on a TCMRotatedFCOS: MODEL.ROTATED_HEAD.ATSS_TOPK" in caplog.text
    caplog.clear()
    off = ["MODEL.TCM.ENABLED", "False", "MODEL.TCM.DECODER_WIDTH", "64"]
    config_tree(load_config("", off))
    assert "no effect" not in caplog.text


def test_what_is_read_is_remembered() -> None:
    watched = WatchedConfig(get_tcm_config())
    assert watched.SOLVER.BASE_LR and watched.clone().SOLVER.AMP.get("ENABLED") is False
    assert {"SOLVER.BASE_LR", "SOLVER.AMP.ENABLED"} <= watched.read_keys
    assert "SOLVER.GAMMA" not in watched.read_keys
    assert dict(watched.SOLVER.AMP) == dict(get_tcm_config().SOLVER.AMP)
    assert "SOLVER.AMP.DTYPE" in watched.read_keys
    # A foreign part gets everything; what it may care for is the model.
    assert watched.dump() == get_tcm_config().dump()
    assert "MODEL.RESNETS.DEPTH" in watched.read_keys and "SOLVER.GAMMA" not in watched.read_keys
