"""Operators and detectors on a GPU against the CPU, plain torch and torchvision."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from benchmarks._detectors import make_detector, make_inputs
from tcm_d2 import ops
from tcm_d2.ops.registration import OPERATORS
from tests.ops.oracle import FAMILIES, box_pairs

PAIRED = ("paired_iou_rotated", "paired_giou_rotated", "paired_diou_rotated")
DETECTORS = ("tcm_fcos", "tcm_atss", "tcm_retinanet")
# Of the losses and of the norm of all gradients: convolutions sum in another order.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 2e-3


def operators(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Compare every operator on ``device`` with the CPU and with plain torch, on every family."""
    num = 50 if tiny else 1000
    problems, largest = [], {}
    for family in FAMILIES:
        for dtype in (torch.float32, torch.float64):
            boxes1, boxes2 = box_pairs(family, num, dtype)
            there = boxes1.to(device), boxes2.to(device)
            for name in PAIRED:
                values = getattr(ops, name)(*there)
                error = _difference(values, getattr(ops, name)(boxes1, boxes2))
                largest[name] = max(largest.get(name, 0.0), error)
                if error > 1e-6:
                    problems.append(f"{name} {family} {dtype}: {error:.2e} from the CPU")
            overlaps = ops.box_iou_rotated(there[0], there[1][: num // 3])
            on_cpu = ops.box_iou_rotated(boxes1, boxes2[: num // 3])
            plain = OPERATORS["box_iou_rotated"].reference(there[0], there[1][: num // 3], False)
            for peer, expected in (("the CPU", on_cpu), ("plain torch", plain)):
                error = _difference(overlaps, expected)
                largest[f"box_iou_rotated, {peer}"] = max(
                    largest.get(f"box_iou_rotated, {peer}", 0.0), error
                )
                if error > 1e-6:
                    problems.append(f"box_iou_rotated {family} {dtype}: {error:.2e} from {peer}")
            scores = torch.linspace(1, 0, num, dtype=dtype)
            keep = ops.nms_rotated(there[0], scores.to(device), 0.3)
            if keep.tolist() != ops.nms_rotated(boxes1, scores, 0.3).tolist():
                problems.append(f"nms_rotated {family} {dtype}: another list than on the CPU")
    error = _upright_difference(device, num)
    largest["box_iou_rotated of upright boxes, torchvision"] = error
    if error > 1e-6:
        problems.append(f"upright boxes: {error:.2e} from torchvision's box_iou")
    return {"largest_difference": largest, "problems": problems}


def _upright_difference(device: torch.device, num: int) -> float:
    """Return the largest difference from torchvision's IoU on boxes that are not turned."""
    boxes, _ = box_pairs("random", num, torch.float64)
    boxes[:, 4] = 0
    centers, sides = boxes[:, :2], boxes[:, 2:4]
    hboxes = torch.cat([centers - sides / 2, centers + sides / 2], dim=1).to(device)
    ours = ops.box_iou_rotated(boxes.to(device), boxes.to(device))
    return _difference(ours, torchvision.ops.box_iou(hboxes, hboxes))


def _difference(actual: Tensor, expected: Tensor) -> float:
    return (actual.cpu().double() - expected.cpu().double()).abs().max().item()


def training(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Take one training step of each detector on the CPU and on ``device``; compare."""
    problems, figures = [], {}
    # Without TF32 both compute in float32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for name in DETECTORS:
        model = make_detector(f"embedded_{name}", torch.device("cpu")).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        inputs = make_inputs(2, 64 if tiny else 256, num_objects=10)
        losses, gradients = _step(model, inputs)
        other = copy.deepcopy(model).to(device)
        other.zero_grad()
        losses_there, gradients_there = _step(other, inputs)
        loss_error = max(abs(losses_there[k] - v) / max(abs(v), 1e-6) for k, v in losses.items())
        norm = sum(g.double().square().sum().item() for g in gradients.values()) ** 0.5
        apart = sum(
            (gradients_there[k].cpu().double() - g.double()).square().sum().item()
            for k, g in gradients.items()
        )
        gradient_error = apart**0.5 / norm
        figures[name] = {"losses": loss_error, "gradients": gradient_error}
        if loss_error > LOSS_TOLERANCE or gradient_error > GRADIENT_TOLERANCE:
            problems.append(f"{name}: losses {loss_error:.1e}, gradients {gradient_error:.1e}")
    return {"relative_difference": figures, "problems": problems}


def _step(
    model: nn.Module, inputs: list[dict[str, Any]]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the losses and gradients of one training step; BatchNorm's statistics stay."""
    state = copy.deepcopy(model.state_dict())
    losses = model(inputs)
    sum(losses.values()).backward()
    model.load_state_dict(state)
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {name: value.item() for name, value in losses.items()}, gradients


STEPS = {"operators": operators, "training": training}
