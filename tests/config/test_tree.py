"""YAML and Python configurations of the same stem are the same tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tcm_d2.config import get_tcm_config
from tcm_d2.config.run import open_config, run_from_cfg, run_from_tree
from tcm_d2.config.tree import config_tree

CONFIGS_DIR = Path(__file__).resolve().parents[2] / "configs"
# Not recipes: bases, and what is only for CPUs.
YAML_ONLY = ("Base-", "embedded_", "small_")
STEMS = sorted(p.stem for p in (CONFIGS_DIR / "lazy").glob("*.py"))


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a tree by full key, so that a difference is one short line."""
    if not isinstance(value, (dict, list)) or not value:
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: dict[str, Any] = {}
    for key, entry in items:
        found |= flat(entry, f"{prefix}.{key}" if prefix else str(key))
    return found


def test_every_recipe_has_both_files() -> None:
    yaml_stems = {p.stem for p in CONFIGS_DIR.glob("*.yaml") if not p.stem.startswith(YAML_ONLY)}
    assert yaml_stems == set(STEMS)
    assert {"tcm_fcos", "tcm_atss", "tcm_retinanet"} <= yaml_stems


@pytest.mark.parametrize("stem", STEMS)
def test_both_files_are_one_tree(stem: str) -> None:
    runs = open_config(CONFIGS_DIR / f"{stem}.yaml"), open_config(CONFIGS_DIR / f"lazy/{stem}.py")
    trees = [yaml.safe_load(run.text) for run in runs]
    assert flat(trees[0]) == flat(trees[1])
    assert all(list(tree["model"])[1] == "head" for tree in trees)  # draws random numbers first
    assert runs[0].train.output_dir == f"output/{stem}"


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["TEST.TTA.ENABLED", "True"], ["dataloader.test.tta.enabled=true"]),
        (["MODEL.WEIGHTS", "w.pth"], ["train.init_checkpoint=w.pth"]),
        (["MODEL.CLIP.WEIGHTS", "RN50.pt"], ["model.backbone.weights=RN50.pt"]),
        (["MODEL.TCM.ENABLED", "False"], ["model.tcm=null", "model.class_text=null"]),
        (["SOLVER.AMP.ENABLED", "True"], ["train.amp.enabled=true"]),
        (["SOLVER.BASE_LR", "2e-4", "SEED", "3"], ["optimizer.lr=2e-4", "train.seed=3"]),
        (["INPUT.RESIZE_FACTOR_TEST", "1.0"], []),
    ],
)
def test_overrides_of_both_kinds_are_one_tree(pairs: list[str], words: list[str]) -> None:
    yaml_run = open_config(CONFIGS_DIR / "tcm_fcos.yaml", pairs)
    python_run = open_config(CONFIGS_DIR / "lazy/tcm_fcos.py", words)
    if "MODEL.TCM.ENABLED" in pairs:
        words.append("dataloader.train.mapper.with_class_masks=false")
        python_run = open_config(CONFIGS_DIR / "lazy/tcm_fcos.py", words)
    assert flat(yaml.safe_load(yaml_run.text)) == flat(yaml.safe_load(python_run.text))


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR"])
def test_schedules_by_their_names_in_detectron2(name: str) -> None:
    from detectron2.solver import build_lr_scheduler

    from tcm_d2.config.plain import build

    cfg = get_tcm_config()
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.BASE_LR = name, 0.1
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = 40, (20, 30), 5
    ours = build(run_from_cfg(cfg).lr_multiplier, max_iter=40, milestones=[20, 30])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = build_lr_scheduler(cfg, optimizer)
    for iteration in range(40):
        assert ours(iteration / 40) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+train.epochs=3"], r"unknown key 'train\.epochs'; near matches: .*max_epochs"),
        (["+dataloader.train.batch_size=3"], r"unknown key 'dataloader\.train\.batch_size'"),
        (["optimizer=null"], r"optimizer: expected a LazyCall"),
        (
            ["+model.head.score_thresh=0.1"],
            r"takes no such argument; near matches: score_threshold",
        ),
        (["model.tcm=null"], r"class_text and tcm: expected both or none"),
        (["model.head.num_classes=3"], r"class prompts: expected 3 .* got 15"),
    ],
)
def test_bad_python_configurations_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_config(CONFIGS_DIR / "lazy/tcm_fcos.py", overrides).build_model(device="cpu")


def test_sections_that_lack_keys_are_refused() -> None:
    tree = config_tree(get_tcm_config())
    del tree["train"]["seed"]
    with pytest.raises(ValueError, match=r"configuration: train: missing keys: seed"):
        run_from_tree(tree)


def test_other_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected \.yaml, \.yml or \.py, got '\.json'"):
        open_config(tmp_path / "c.json")
