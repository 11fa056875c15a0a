"""Parameter groups, clipping and the learning rate at single iterations."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from detectron2.solver import LRMultiplier
from torch import nn

from tcm_d2.checkpoint.convert import convert_mmrotate_name
from tcm_d2.engine.optim import (
    NO_DECAY_NAME_PART,
    build_lr_multiplier,
    build_optimizer,
    build_parameter_groups,
    clip_gradients_before_step,
    iterations_per_epoch,
)
from tcm_d2.modeling.heads.fcos import RotatedFCOSHead
from tests.engine.tiny_run import TinyDetector


def test_groups_follow_names(caplog: pytest.LogCaptureFixture) -> None:
    model = TinyDetector()
    with caplog.at_level(logging.INFO):
        groups = build_parameter_groups(
            model, base_lr=1e-4, image_tower_lr_factor=0.3, weight_decay=1e-3
        )
    by_name = {g["name"]: g for g in groups}
    names = {id(p): n for n, p in model.named_parameters()}
    assert sorted(by_name) == ["image tower", "rest", "rest, no decay"]
    tower = {names[id(p)] for p in by_name["image tower"]["params"]}
    assert tower == {n for n in names.values() if n.startswith(("backbone", "attention_pool"))}
    assert by_name["image tower"]["lr"] == pytest.approx(3e-5)
    assert by_name["rest"]["lr"] == 1e-4
    no_decay = {names[id(p)] for p in by_name["rest, no decay"]["params"]}
    assert no_decay == {"tcm.norm1.weight", "tcm.norm1.bias"}
    assert [g["weight_decay"] for g in groups] == [1e-3, 1e-3, 0.0]
    # Every trainable parameter once, no frozen one.
    grouped = [id(p) for g in groups for p in g["params"]]
    trainable = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    assert "frozen" in caplog.text and "20" in caplog.text  # 4 x 4 + 4 numbers


def test_shared_parameter_is_in_one_group() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    model["head"].weight = model["backbone"].weight
    groups = build_parameter_groups(model, base_lr=1.0, image_tower_lr_factor=0.5, weight_decay=0.0)
    assert sum(len(g["params"]) for g in groups) == 3


def test_fully_frozen_model_is_refused() -> None:
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="trainable"):
        build_parameter_groups(model, base_lr=1.0, image_tower_lr_factor=1.0, weight_decay=0.0)


def test_no_decay_is_the_same_set_as_published(golden_dir: Path) -> None:
    """The rule is one about names: ours must not have "norm" where the reference has not."""
    for line in (golden_dir / "param_names_fcos.txt").read_text().splitlines():
        name = line.split()[0] if line.strip() else ""
        ours = convert_mmrotate_name(name, RotatedFCOSHead.foreign_names)
        if ours is not None:
            assert (NO_DECAY_NAME_PART in ours) == (NO_DECAY_NAME_PART in name), (name, ours)


def test_clipping_scales_all_gradients_together() -> None:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b]}], lr=1.0)
    clip_gradients_before_step(optimizer, max_norm=0.1, norm_type=2.0)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.step()
    assert a.item() == pytest.approx(-0.06, rel=1e-5)
    assert b.item() == pytest.approx(-0.08, rel=1e-5)
    a.grad, b.grad = torch.tensor([0.03]), torch.tensor([0.04])  # shorter than the limit
    optimizer.step()
    assert a.item() == pytest.approx(-0.09, rel=1e-5)


def test_unknown_optimizer_is_refused() -> None:
    groups = build_parameter_groups(
        TinyDetector(), base_lr=1.0, image_tower_lr_factor=1.0, weight_decay=0.0
    )
    with pytest.raises(ValueError, match=r"SOLVER\.OPTIMIZER.*'ADAM'"):
        build_optimizer(groups, name="ADAM", betas=(0, 0), eps=0, momentum=0, nesterov=False)


def test_learning_rates_equal_hand_computed_ones() -> None:
    """12 epochs of 1000 iterations, warm-up of 500 from 1/3, steps after epochs 8 and 11."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [weight], "lr": 3e-5}], lr=1e-4)
    multiplier = build_lr_multiplier(
        max_iter=12000, milestones=[8000, 11000], gamma=0.1, warmup_iters=500, warmup_factor=1 / 3
    )
    scheduler = LRMultiplier(optimizer, multiplier, 12000)
    wanted = {0: 1 / 3, 1: 1 / 3 + 2 / 1500, 250: 2 / 3, 499: 1 - 2 / 1500, 500: 1.0, 7999: 1.0}
    wanted |= {8000: 0.1, 10999: 0.1, 11000: 0.01, 11999: 0.01}
    for iteration in range(12000):
        if iteration in wanted:
            lr = optimizer.param_groups[0]["lr"]
            assert lr == pytest.approx(3e-5 * wanted[iteration], rel=1e-6), iteration
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("num_images", "batch", "wanted"), [(8, 4, 2), (9, 4, 3), (1, 4, 1), (21046, 4, 5262)]
)
def test_iterations_per_epoch_round_up(num_images: int, batch: int, wanted: int) -> None:
    assert iterations_per_epoch(num_images, batch) == wanted


def test_short_runs_have_a_schedule(caplog: pytest.LogCaptureFixture) -> None:
    multiplier = build_lr_multiplier(
        max_iter=10, milestones=[50], gamma=0.1, warmup_iters=500, warmup_factor=0.5
    )
    assert multiplier(0.0) == pytest.approx(0.5) and multiplier(0.9) == pytest.approx(0.95)
    assert "shortened" in caplog.text and "ends at 10" in caplog.text
    flat = build_lr_multiplier(
        max_iter=1, milestones=[], gamma=0.1, warmup_iters=0, warmup_factor=0.5
    )
    assert flat(0.0) == 1.0


@pytest.mark.parametrize(("max_iter", "steps"), [(0, []), (10, [5, 5]), (10, [6, 5]), (10, [0])])
def test_impossible_schedules_are_refused(max_iter: int, steps: list[int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        build_lr_multiplier(
            max_iter=max_iter, milestones=steps, gamma=0.1, warmup_iters=0, warmup_factor=1.0
        )
