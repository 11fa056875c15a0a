"""FCOS's losses with and without waiting for counts, and a training step that never waits."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from tcm_d2.modeling.heads.fcos import FCOSOutput, RotatedFCOSHead
from tests.modeling.small_clip import build_head
from tests.modeling.test_one_stage import tiny_config, two_inputs

BOXES = [
    torch.tensor([[40.0, 40.0, 50.0, 20.0, 30.0], [40.0, 44.0, 12.0, 9.0, 0.0]]),
    torch.tensor([[90.0, 80.0, 300.0, 30.0, -60.0]]),
    torch.zeros(0, 5),
]
CLASSES = [torch.tensor([0, 1]), torch.tensor([1]), torch.zeros(0, dtype=torch.int64)]


def make_output(head: RotatedFCOSHead) -> FCOSOutput:
    sizes = [128 // stride_px for stride_px in head.strides_px]

    def levels(channels: int) -> list[torch.Tensor]:
        return [torch.randn(3, channels, s, s).requires_grad_() for s in sizes]

    distances = [level.detach().mul(2).clamp(min=0).requires_grad_() for level in levels(4)]
    return FCOSOutput(levels(2), distances, levels(1), levels(1))


@pytest.mark.parametrize("num_images", [3, 0])
def test_all_locations_with_a_mask_cost_what_the_positive_ones_do(
    monkeypatch: pytest.MonkeyPatch, num_images: int
) -> None:
    """What CUDA does to wait for nothing, here on the CPU; also without any object."""
    head = build_head(tiny_config())
    output = make_output(head)
    boxes = [b if i < num_images else b[:0] for i, b in enumerate(BOXES)]
    classes = [c if i < num_images else c[:0] for i, c in enumerate(CLASSES)]
    results = []
    for waits in (True, False):
        monkeypatch.setattr(
            "tcm_d2.modeling.heads.fcos.waits_for_counts", lambda _, waits=waits: waits
        )
        losses = head.losses(output, boxes, classes)
        tensors = [tensor for levels in output for tensor in levels]
        grads = torch.autograd.grad(sum(losses.values()), tensors)
        results.append(({name: value.detach() for name, value in losses.items()}, grads))
    for name, value in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], value, rtol=1e-5, atol=1e-7)
    for theirs, ours in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-7)
    assert (results[0][0]["loss_box"] > 0) == bool(num_images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_host_never_waits_in_a_training_step() -> None:
    cfg = tiny_config()
    cfg.MODEL.DEVICE = "cuda"
    model = build_model(cfg).train()
    inputs = two_inputs()
    for item in inputs:
        item["image"] = item["image"].cuda()
        item["class_masks"] = item["class_masks"].cuda()
        item["instances"] = item["instances"].to("cuda")

    def step() -> None:
        losses = model(inputs)
        sum(losses.values()).backward()

    step()  # what is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
