"""The suites on TCM's effect and the open vocabulary: their runs, their words, their tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import effect, open_vocabulary
from benchmarks.effect import Run, compare, list_runs, make_table, overrides_of
from tcm_d2.config import load_config
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.loading import load_dota_split
from tcm_d2.data.dota.manifest import MANIFEST_NAME, PatchRecord, write_manifest
from tcm_d2.visualize.sheets import save_image
from tests.conftest import REPO_DIR


@pytest.fixture
def clip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "clip.safetensors"
    tensors = {"visual.conv1.weight": torch.randn(4, 4), "text_projection": torch.randn(8, 8)}
    save_file({**tensors, "token_embedding.row_ids": torch.arange(3)}, path)
    monkeypatch.setattr(effect, "EMBEDDED_FILE", path)
    return path


def test_every_run_can_be_configured_and_the_telling_ones_come_first(
    clip_file: Path, tmp_path: Path
) -> None:
    runs = list_runs()
    assert len(runs) == len({run.name for run in runs}) == 117
    assert {(run.variant, run.num_scenes) for run in runs[:12]} == {("tcm", 24), ("no TCM", 24)}
    for run in [*runs, *effect.list_remedies()]:
        model = effect._MODELS.get(run.variant, "tcm_fcos")
        cfg = load_config(
            REPO_DIR / "configs" / f"embedded_{model}.yaml", overrides_of(run, tmp_path)
        )
        assert bool(cfg.MODEL.CLIP.WEIGHTS) == (run.clip == "embedded CLIP")
        assert cfg.MODEL.TCM.VISUAL_PROMPT == (run.variant != "no visual prompt")


def test_random_class_embeddings_leave_the_image_tower(clip_file: Path, tmp_path: Path) -> None:
    run = Run("random class embeddings", 24, "embedded CLIP", 2)
    weights = overrides_of(run, tmp_path)[1]
    found, given = load_file(weights), load_file(clip_file)
    for name in ("visual.conv1.weight", "token_embedding.row_ids"):
        assert torch.equal(found[name], given[name])
    mine, theirs = found["text_projection"], given["text_projection"]
    assert not torch.equal(mine, theirs)
    assert torch.equal(mine.flatten().sort().values, theirs.flatten().sort().values)


def test_differences_within_the_spread_are_called_so() -> None:
    assert compare(np.array([10.0, 12.0]), np.array([20.0, 22.0])) == "-10.0"
    assert compare(np.array([10.0, 20.0]), np.array([14.0, 22.0])) == "-3.0 (within the spread)"
    assert compare(np.array([10.0]), np.array([20.0, 21.0])) == "-"


def test_pairs_have_the_same_scenes_and_seed() -> None:
    results = {
        Run(variant, scenes, "embedded CLIP", seed).name: {"AP50": 10.0 * seed + gain}
        for variant, scenes, seed, gain in (
            *(("tcm", 8, 1, 3.0), ("no TCM", 8, 1, 0.0), ("tcm", 24, 2, 5.0)),
            *(("no TCM", 24, 2, 0.0), ("tcm", 96, 3, 99.0)),
        )
    }
    text = effect.describe_pairs(results, "embedded CLIP")
    assert text.startswith("TCM minus no TCM +4.0 AP50, standard error 1.0, over 2 pairs, 2 of")
    assert effect.describe_pairs(results, "random weights").startswith("too few")


def test_table_and_plot_are_of_the_runs_that_are_there(tmp_path: Path) -> None:
    results = {
        Run(variant, 24, "embedded CLIP", seed).name: {"AP50": base + seed, "AP75": 1.0}
        for variant, base in (("tcm", 30.0), ("no TCM", 10.0))
        for seed in (1, 2, 3)
    }
    lines = make_table(results).splitlines()
    assert len(lines) == 4 and "32.0 +- 1.0" in lines[2] and "-20.0" in lines[3]
    effect.plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_results_of_another_schedule_are_refused(tmp_path: Path) -> None:
    effect.write_results(tmp_path / "r.json", 240, {})
    with pytest.raises(ValueError, match="holds runs of 240 iterations, not 100"):
        effect.read_results(tmp_path / "r.json", 100)


@pytest.mark.parametrize("keeps_novel", [False, True])
def test_training_has_no_novel_label_and_if_asked_no_novel_object(
    keeps_novel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_vocabulary, "make_data", lambda *args: None)
    objects = {"P0": ["plane"], "P1": ["helicopter", "plane"]}
    for split in ("train", "val"):
        for folder in (tmp_path / split, tmp_path / f"{split}_patches"):
            for name in ("images", "labelTxt"):
                (folder / name).mkdir(parents=True)
            for image_id, names in objects.items():
                save_image(folder / "images" / f"{image_id}.png", np.zeros((64, 64, 3), np.uint8))
                lines = [f"9 9 40 9 40 40 9 40 {name} 0" for name in names]
                (folder / "labelTxt" / f"{image_id}.txt").write_text("\n".join(lines))
        records = [
            PatchRecord(i, f"images/{i}.png", i, 0, 0, 64, 64, 1.0, len(names), "")
            for i, names in objects.items()
        ]
        write_manifest(tmp_path / f"{split}_patches" / MANIFEST_NAME, records)
    base = open_vocabulary.make_base_data(tmp_path, keeps_novel=keeps_novel)
    patches = load_dota_split(base / "train_patches", DOTA_V1_CLASSES)
    assert [len(p["annotations"]) for p in patches] == ([1, 1] if keeps_novel else [1])
    assert "helicopter" not in (base / "val" / "labelTxt" / "P1.txt").read_text()


def test_base_and_novel_classes_are_all_classes() -> None:
    assert len(open_vocabulary.BASE) == 11 and len(open_vocabulary.NOVEL) == 4
    assert {*open_vocabulary.BASE, *open_vocabulary.NOVEL} == set(DOTA_V1_CLASSES)
