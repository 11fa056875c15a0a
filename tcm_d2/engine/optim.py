"""Parameter groups, optimizer, clipping and learning-rate schedule of the published recipe."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.solver.lr_scheduler import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)
from tabulate import tabulate
from torch import Tensor, nn
from torch.optim import Optimizer

from tcm_d2.config.registries import PART_REGISTRY

logger = logging.getLogger(__name__)

# What was CLIP's image tower: it starts from pretrained weights and learns more slowly.
IMAGE_TOWER_PREFIXES = ("backbone.", "attention_pool.")
# Parameters with this in their name do not decay. In the published models these are the context
# decoders' norm1 .. norm3 only: BatchNorm, GroupNorm and CLIP's ln_* are named otherwise and decay.
NO_DECAY_NAME_PART = "norm"


def build_parameter_groups(
    model: nn.Module, *, base_lr: float, image_tower_lr_factor: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return optimizer groups by image tower or not, and decay or not; log them as a table.

    Frozen parameters (CLIP's text tower) are in no group, shared ones in one only. Empty groups
    are left out.

    Args:
        model: names of its parameters decide, see IMAGE_TOWER_PREFIXES and NO_DECAY_NAME_PART.
        base_lr: learning rate outside of the image tower.
        image_tower_lr_factor: what it is multiplied with in the image tower.
        weight_decay: of the parameters that decay.

    Raises:
        ValueError: when no parameter is trainable.
    """
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for in_tower in (True, False):
        for decays in (True, False):
            groups[in_tower, decays] = {
                "params": [],
                "name": ("image tower" if in_tower else "rest") + ("" if decays else ", no decay"),
                "lr": base_lr * (image_tower_lr_factor if in_tower else 1.0),
                "weight_decay": weight_decay if decays else 0.0,
            }
    frozen: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            frozen.append(parameter)
            continue
        key = (name.startswith(IMAGE_TOWER_PREFIXES), NO_DECAY_NAME_PART not in name)
        groups[key]["params"].append(parameter)
    used = [group for group in groups.values() if group["params"]]
    if not used:
        raise ValueError("model: expected trainable parameters, got none")
    _log_groups(used, frozen)
    return used


def _log_groups(groups: list[dict[str, Any]], frozen: list[Tensor]) -> None:
    rows = [
        [g["name"], f"{g['lr']:g}", f"{g['weight_decay']:g}", *_count(g["params"])] for g in groups
    ]
    rows.append(["frozen", "-", "-", *_count(frozen)])
    headers = ["group", "lr", "weight decay", "tensors", "parameters"]
    logger.info("Optimizer groups:\n%s", tabulate(rows, headers, tablefmt="simple"))


def _count(parameters: list[Tensor]) -> tuple[int, str]:
    return len(parameters), f"{sum(p.numel() for p in parameters):,}"


def clip_gradients_before_step(optimizer: Optimizer, *, max_norm: float, norm_type: float) -> None:
    """Make every step of ``optimizer`` first scale all gradients together to ``max_norm``.

    One norm over all parameters of the optimizer, as mmcv's ``grad_clip``; Detectron2's "norm"
    clips each tensor by itself. Gradients have to be finite, and unscaled where a gradient scaler
    is used: the trainer sees to both.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def clip(*_: Any) -> None:
        nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)

    optimizer.register_step_pre_hook(clip)


def build_optimizer(
    groups: list[dict[str, Any]],
    *,
    name: str,
    betas: Sequence[float],
    eps: float,
    momentum: float,
    nesterov: bool,
) -> Optimizer:
    """Return "ADAMW" (betas, eps) or "SGD" (momentum, nesterov) over parameter groups.

    Raises:
        ValueError: for another name.
    """
    if name == "ADAMW":
        # One kernel for all tensors: a third of the time of the default on the CPU.
        return torch.optim.AdamW(groups, betas=(betas[0], betas[1]), eps=eps, fused=True)
    if name == "SGD":
        return torch.optim.SGD(groups, lr=groups[0]["lr"], momentum=momentum, nesterov=nesterov)
    raise ValueError(f"SOLVER.OPTIMIZER: expected 'ADAMW' or 'SGD', got {name!r}")


def scale_learning_rate(base_lr: float, *, batch_size: int, reference_batch_size: int) -> float:
    """Return ``base_lr`` times ``batch_size / reference_batch_size``; log it where they differ.

    Args:
        base_lr: meant for batches of ``reference_batch_size`` images.
        batch_size: images per optimizer step in all processes.
        reference_batch_size: 0 returns ``base_lr`` as it is.

    Raises:
        ValueError: for a negative reference.
    """
    if reference_batch_size < 0:
        raise ValueError(
            "SOLVER.REFERENCE_BATCH_SIZE: expected a number of images, or 0 to take BASE_LR as it "
            f"is, got {reference_batch_size}"
        )
    if reference_batch_size in (0, batch_size):
        return base_lr
    scaled = base_lr * batch_size / reference_batch_size
    logger.info(
        "learning rate %g for batches of %d becomes %g for batches of %d",
        base_lr,
        reference_batch_size,
        scaled,
        batch_size,
    )
    return scaled


@PART_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_recipe_optimizer(
    model: nn.Module,
    *,
    batch_size: int,
    name: str,
    lr: float,
    reference_batch_size: int,
    image_tower_lr_factor: float,
    weight_decay: float,
    betas: Sequence[float],
    eps: float,
    momentum: float,
    nesterov: bool,
    clip_max_norm: float,
    clip_norm_type: float,
) -> Optimizer:
    """Return the optimizer of a model with the recipe's parameter groups and clipping.

    Args:
        model: see `build_parameter_groups`.
        batch_size: images per iteration in all processes.
        name, betas, eps, momentum, nesterov: see `build_optimizer`.
        lr, reference_batch_size: see `scale_learning_rate`.
        image_tower_lr_factor, weight_decay: see `build_parameter_groups`.
        clip_max_norm: largest norm of all gradients together; 0 does not clip.
        clip_norm_type: p of this norm.
    """
    optimizer = build_optimizer(
        build_parameter_groups(
            model,
            base_lr=scale_learning_rate(
                lr, batch_size=batch_size, reference_batch_size=reference_batch_size
            ),
            image_tower_lr_factor=image_tower_lr_factor,
            weight_decay=weight_decay,
        ),
        name=name,
        betas=betas,
        eps=eps,
        momentum=momentum,
        nesterov=nesterov,
    )
    if clip_max_norm > 0:
        clip_gradients_before_step(optimizer, max_norm=clip_max_norm, norm_type=clip_norm_type)
    return optimizer


def iterations_per_epoch(num_images: int, total_batch_size: int) -> int:
    """Return the iterations after which every image was seen at least once.

    Rounded up: the last images of an epoch share their batch with the first of the next one.
    """
    return math.ceil(num_images / total_batch_size)


@PART_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_lr_multiplier(
    *,
    max_iter: int,
    milestones: Sequence[int],
    gamma: float,
    warmup_iters: int,
    warmup_factor: float,
) -> ParamScheduler:
    """Return the factor on all learning rates as a function of iteration / max_iter.

    It rises linearly from ``warmup_factor`` at iteration 0 to 1 at ``warmup_iters`` and is
    multiplied with ``gamma`` at each milestone. Milestones after the end are ignored, a warm-up
    longer than the run is shortened to it; both are logged.

    Raises:
        ValueError: when ``max_iter`` is not positive or the milestones do not increase.
    """
    _check_length(max_iter)
    if list(milestones) != sorted(set(milestones)) or (milestones and milestones[0] < 1):
        raise ValueError(
            f"learning-rate steps: expected increasing numbers from 1, got {list(milestones)}"
        )
    steps = [step for step in milestones if step < max_iter]
    if len(steps) < len(milestones):
        logger.warning("learning-rate steps %s: the run ends at %d", list(milestones), max_iter)
    schedule = MultiStepParamScheduler(
        values=[gamma**k for k in range(len(steps) + 1)], milestones=steps, num_updates=max_iter
    )
    return _after_warmup(schedule, max_iter, warmup_iters, warmup_factor)


@PART_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_cosine_multiplier(
    *,
    max_iter: int,
    milestones: Sequence[int],
    end_factor: float,
    warmup_iters: int,
    warmup_factor: float,
) -> ParamScheduler:
    """Return the factor on all learning rates as a function of iteration / max_iter.

    It falls from 1 to ``end_factor`` as half a cosine, after a warm-up as `build_lr_multiplier`'s.

    Args:
        milestones: not used, there are no steps.

    Raises:
        ValueError: when ``max_iter`` is not positive.
    """
    _check_length(max_iter)
    return _after_warmup(CosineParamScheduler(1, end_factor), max_iter, warmup_iters, warmup_factor)


def _check_length(max_iter: int) -> None:
    if max_iter < 1:
        raise ValueError(f"number of iterations: expected at least 1, got {max_iter}")


def _after_warmup(
    schedule: ParamScheduler, max_iter: int, warmup_iters: int, warmup_factor: float
) -> ParamScheduler:
    if warmup_iters > max_iter:
        logger.warning(
            "warm-up of %d iterations: shortened to the %d of the run", warmup_iters, max_iter
        )
        warmup_iters = max_iter
    if warmup_iters < 1:
        return schedule
    return WarmupParamScheduler(schedule, warmup_factor, warmup_iters / max_iter, "linear")
