"""Class masks against the reference's arrays, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tcm_d2.structures.conversions import le90_to_boxes
from tcm_d2.structures.masks import boxes_to_class_masks

GOLDEN_PATH = Path(__file__).resolve().parents[1] / "data" / "golden" / "h_rbox2segmask.npz"


@pytest.mark.parametrize("case", range(5))
def test_class_masks_equal_the_reference(case: int) -> None:
    golden = np.load(GOLDEN_PATH)
    num_classes, height, width = golden[f"case{case}_mask_shape"].tolist()
    packed = golden[f"case{case}_class_packed"]
    expected = np.unpackbits(packed)[: num_classes * height * width]
    expected = expected.reshape(num_classes, height, width).astype(bool)
    masks = boxes_to_class_masks(
        le90_to_boxes(torch.from_numpy(golden[f"case{case}_boxes"])),
        torch.from_numpy(golden[f"case{case}_labels"].astype(np.int64)),
        num_classes=num_classes,
        image_size_hw=tuple(golden[f"case{case}_hw"].tolist()),
        stride_px=4,
    )
    assert masks.dtype == torch.bool
    assert np.array_equal(masks.numpy(), expected)
    globally = np.unpackbits(golden[f"case{case}_global_packed"])[: height * width]
    assert np.array_equal(masks.any(dim=0).numpy().reshape(-1), globally.astype(bool))


def test_upright_box_fills_its_pixels() -> None:
    boxes = torch.tensor([[40.0, 24.0, 32.0, 16.0, 0.0]])
    masks = boxes_to_class_masks(
        boxes, torch.tensor([1]), num_classes=3, image_size_hw=(64, 96), stride_px=4
    )
    expected = torch.zeros(3, 16, 24, dtype=torch.bool)
    expected[1, 4:8, 6:14] = True
    assert torch.equal(masks, expected)
    assert torch.equal(boxes, torch.tensor([[40.0, 24.0, 32.0, 16.0, 0.0]]))


def test_odd_image_size_is_rounded_down_and_no_boxes_give_no_pixels() -> None:
    masks = boxes_to_class_masks(
        torch.zeros(0, 5),
        torch.zeros(0, dtype=torch.int64),
        num_classes=15,
        image_size_hw=(250, 333),
        stride_px=4,
    )
    assert masks.shape == (15, 62, 83)
    assert not masks.any()


def test_bad_classes_are_refused() -> None:
    boxes = torch.tensor([[8.0, 8.0, 4.0, 4.0, 0.0]])
    with pytest.raises(ValueError, match=r"in \[0, 2\), got 2\.\.2"):
        boxes_to_class_masks(
            boxes, torch.tensor([2]), num_classes=2, image_size_hw=(16, 16), stride_px=4
        )
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        boxes_to_class_masks(
            boxes, torch.tensor([0, 1]), num_classes=2, image_size_hw=(16, 16), stride_px=4
        )
