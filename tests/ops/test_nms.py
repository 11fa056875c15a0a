"""Greedy NMS: kernel and reference against a loop over shapely polygons."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tcm_d2.ops import batched_nms_rotated, extension_status, nms_rotated
from tcm_d2.ops.registration import OPERATORS
from tests.ops.oracle import exact_overlap

Nms = Callable[[Tensor, Tensor, "Tensor | None", float], Tensor]


def kernel_nms(boxes: Tensor, scores: Tensor, labels: Tensor | None, threshold: float) -> Tensor:
    if labels is None:
        return nms_rotated(boxes, scores, threshold)
    return batched_nms_rotated(boxes, scores, labels, threshold)


IMPLEMENTATIONS: dict[str, Nms] = {
    "kernel": kernel_nms,
    "reference": OPERATORS["nms_rotated"].reference,
}


def crowd(num: int, *, seed: int = 0, extent: float = 150.0) -> tuple[Tensor, Tensor, Tensor]:
    """Overlapping boxes with centres around 0, scores with many ties, and labels."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(num, 5, generator=generator)
    boxes = boxes * boxes.new_tensor([extent, extent, 40, 15, 360])
    boxes = boxes - boxes.new_tensor([extent / 2, extent / 2, -5, -5, 180])
    scores = (torch.rand(num, generator=generator) * 20).round() / 20
    labels = torch.randint(-1, 3, (num,), generator=generator)
    return boxes, scores, labels


def greedy(iou: Tensor, scores: Tensor, labels: Tensor | None, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(iou)), key=lambda i: (-scores[i].item(), i)):
        rivals = [j for j in kept if labels is None or labels[i] == labels[j]]
        if all(iou[i, j] <= threshold for j in rivals):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nms_is_greedy_with_ties_by_index(
    implementation: str, dtype: torch.dtype, threshold: float
) -> None:
    num = 120
    boxes, scores, labels = crowd(num, extent=120)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    iou = exact_overlap(boxes.repeat_interleave(num, 0), boxes.repeat(num, 1)).reshape(num, num)
    for classes in (None, labels):
        keep = IMPLEMENTATIONS[implementation](boxes, scores, classes, threshold)
        assert keep.dtype == torch.int64
        assert keep.tolist() == greedy(iou, scores, classes, threshold)


def test_large_crowd_equals_the_reference() -> None:
    boxes, scores, labels = crowd(2000, extent=500)
    for classes in (None, labels):
        expected = OPERATORS["nms_rotated"].reference(boxes, scores, classes, 0.1)
        assert torch.equal(kernel_nms(boxes, scores, classes, 0.1), expected)


def test_threads_do_not_change_the_result() -> None:
    if not extension_status().cpu:
        pytest.skip("the compiled extension is not built; the reference of this size is slow")
    boxes, scores, labels = crowd(6000, extent=1000)  # enough to be shared among threads
    before = torch.get_num_threads()
    results = []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            results.append(batched_nms_rotated(boxes, scores, labels, 0.1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_threshold_is_strict(implementation: str) -> None:
    # The second box is one half of the first: their IoU is 0.5 to the bit.
    boxes = torch.tensor([[0.0, 0.0, 4.0, 1.0, 0.0], [1.0, 0.0, 2.0, 1.0, 0.0]])
    scores = torch.tensor([0.9, 0.8])
    nms = IMPLEMENTATIONS[implementation]
    assert nms(boxes, scores, None, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, None, 0.4999).tolist() == [0]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_suppressed_box_suppresses_nothing(implementation: str) -> None:
    boxes = torch.tensor(
        [[0.0, 0.0, 10.0, 2.0, 0.0], [5.0, 0.0, 10.0, 2.0, 0.0], [10.0, 0.0, 10.0, 2.0, 0.0]]
    )
    keep = IMPLEMENTATIONS[implementation](boxes, torch.tensor([0.9, 0.8, 0.7]), None, 0.2)
    assert keep.tolist() == [0, 2]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_classes_with_negative_centres_do_not_cross_talk(implementation: str) -> None:
    boxes = torch.tensor([[-500.0, -500.0, 20.0, 10.0, 30.0]]).repeat(4, 1)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    labels = torch.tensor([0, 1, -(2**62), 2**62])
    keep = IMPLEMENTATIONS[implementation](boxes, scores, labels, 0.1)
    assert keep.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_boxes_without_area_are_kept(implementation: str) -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.0, 5.0, 0.0]] * 2 + [[float("nan")] * 5] * 2)
    keep = IMPLEMENTATIONS[implementation](boxes, torch.tensor([0.1, 0.4, 0.3, 0.2]), None, 0.1)
    assert keep.tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("num", [0, 1])
def test_few_boxes(implementation: str, num: int) -> None:
    boxes, scores, labels = crowd(num)
    for classes in (None, labels):
        keep = IMPLEMENTATIONS[implementation](boxes, scores, classes, 0.5)
        assert keep.dtype == torch.int64 and keep.tolist() == list(range(num))


def limited(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    images: Tensor,
    *,
    score_threshold: float | None,
    max_detections: int | None,
) -> list[int]:
    """The same by one NMS an image and label, filtered before and cut after."""
    kept: list[int] = []
    for image in images.unique():
        of_image: list[int] = []
        for label in labels.unique():
            rule = (images == image) & (labels == label)
            if score_threshold is not None:
                rule &= scores > score_threshold
            index = rule.nonzero().squeeze(1)
            of_image += index[
                OPERATORS["nms_rotated"].reference(boxes[index], scores[index], None, 0.1)
            ]
        of_image.sort(key=lambda i: (-scores[i].item(), int(i)))
        kept += of_image[:max_detections]
    return sorted((int(i) for i in kept), key=lambda i: (-scores[i].item(), i))


@pytest.mark.parametrize("score_threshold", [None, 0.3, 2.0])
@pytest.mark.parametrize("max_detections", [None, 0, 1, 20, 1000])
def test_limits_and_images_equal_separate_calls(
    score_threshold: float | None, max_detections: int | None
) -> None:
    boxes, scores, labels = crowd(700, extent=200)
    images = torch.arange(700) * 7 % 4 - 2**40
    limits = {"score_threshold": score_threshold, "max_detections": max_detections}
    expected = limited(boxes, scores, labels, images, **limits)
    keep = batched_nms_rotated(boxes, scores, labels, 0.1, image_ids=images, **limits)
    assert keep.tolist() == expected
    reference = OPERATORS["nms_rotated"].reference(
        boxes, scores, labels, 0.1, images, score_threshold, max_detections
    )
    assert reference.tolist() == expected
    one = torch.zeros_like(labels)
    keep = nms_rotated(boxes, scores, 0.1, **limits)
    assert keep.tolist() == limited(boxes, scores, one, one, **limits)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_score_threshold_is_strict_and_drops_nan(implementation: str) -> None:
    boxes = torch.tensor([[100.0 * i, 0.0, 9.0, 5.0, 10.0] for i in range(4)])
    scores = torch.tensor([0.3, float("nan"), 0.30001, 0.9])
    if implementation == "reference":
        keep = OPERATORS["nms_rotated"].reference(boxes, scores, None, 0.1, None, 0.3, None)
    else:
        keep = nms_rotated(boxes, scores, 0.1, score_threshold=0.3)
    assert keep.tolist() == [3, 2]


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.9, 1.0])
def test_every_size_of_box_meets_every_other(threshold: float) -> None:
    """Sizes from 1e-3 to 1e5 px, far and near: the grid's levels against all pairs."""
    generator = torch.Generator().manual_seed(5)
    draws = torch.rand(1500, 6, generator=generator, dtype=torch.float64)
    width = 10 ** (8 * draws[:, 2] - 3)
    height = width * 10 ** (-3 * draws[:, 3])
    centres = (draws[:, :2] - 0.5) * (10 ** (6 * draws[:, 4:5]))
    boxes = torch.cat([centres, width[:, None], height[:, None], 360 * draws[:, 5:]], dim=1)
    boxes[1000:] = boxes[:500] * (1 + 1e-3 * draws[:500, :5])  # rivals of about the same size
    scores = draws[:, 0] - draws[:, 5]
    expected = OPERATORS["nms_rotated"].reference(boxes, scores, None, threshold)
    assert torch.equal(nms_rotated(boxes, scores, threshold), expected)


def test_other_dtypes_and_layouts() -> None:
    boxes, scores, labels = crowd(60)
    boxes, scores = boxes.half(), scores.half()
    expected = batched_nms_rotated(boxes.float(), scores.float(), labels, 0.3)
    strided = boxes.t().contiguous().t()
    doubled = torch.stack([scores, scores], dim=1)[:, 1]
    assert torch.equal(batched_nms_rotated(strided, doubled, labels.to(torch.int8), 0.3), expected)
    assert torch.equal(batched_nms_rotated(boxes, scores.double(), labels, 0.3), expected)


def test_bad_arguments_are_named() -> None:
    boxes, scores, labels = crowd(4)
    with pytest.raises(ValueError, match=r"boxes: expected shape \(N, 5\)"):
        nms_rotated(boxes[:, :4], scores, 0.5)
    with pytest.raises(TypeError, match=r"boxes: expected a floating point tensor, got torch.int"):
        nms_rotated(boxes.long(), scores, 0.5)
    with pytest.raises(ValueError, match=r"scores: expected shape \(4,\).*got \(3,\)"):
        nms_rotated(boxes, scores[:3], 0.5)
    with pytest.raises(TypeError, match="scores: expected a floating point"):
        nms_rotated(boxes, labels, 0.5)
    with pytest.raises(TypeError, match="labels: expected an integer tensor"):
        batched_nms_rotated(boxes, scores, labels.float(), 0.5)
    with pytest.raises(ValueError, match=r"labels: expected shape \(4,\)"):
        batched_nms_rotated(boxes, scores, labels[:, None], 0.5)
    with pytest.raises(ValueError, match=r"iou_threshold: expected a value in \[0, 1\], got 1.5"):
        nms_rotated(boxes, scores, 1.5)
    with pytest.raises(TypeError, match="iou_threshold: expected a number, got NoneType"):
        nms_rotated(boxes, scores, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="boxes on cpu, scores on meta"):
        nms_rotated(boxes, scores.to("meta"), 0.5)
    with pytest.raises(TypeError, match=r"labels: expected a torch\.Tensor, got NoneType"):
        batched_nms_rotated(boxes, scores, None, 0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="image_ids: expected an integer tensor"):
        batched_nms_rotated(boxes, scores, labels, 0.5, image_ids=scores)
    with pytest.raises(ValueError, match=r"image_ids: expected shape \(4,\)"):
        batched_nms_rotated(boxes, scores, labels, 0.5, image_ids=labels[:2])
    with pytest.raises(ValueError, match="score_threshold: expected a number, got NaN"):
        nms_rotated(boxes, scores, 0.5, score_threshold=float("nan"))
    with pytest.raises(TypeError, match="score_threshold: expected a number or None, got str"):
        nms_rotated(boxes, scores, 0.5, score_threshold="0.1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_detections: expected at least 0, got -1"):
        nms_rotated(boxes, scores, 0.5, max_detections=-1)
    with pytest.raises(TypeError, match="max_detections: expected an integer or None, got float"):
        nms_rotated(boxes, scores, 0.5, max_detections=10.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("threshold", [None, -0.5, 0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_of_any_kind_are_ordered_as_by_torch(
    dtype: torch.dtype, threshold: float | None
) -> None:
    inf, nan = float("inf"), float("nan")
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-50, 50, (3000,), generator=generator) / 100  # many ties
    special = torch.tensor([nan, inf, -inf, 0.0, -0.0, 1e-45, -1e-45, 0.3, -nan, 3e38, -3e38])
    scores = torch.cat([special, drawn, special]).to(dtype)
    apart = torch.arange(len(scores)) * 10.0
    boxes = torch.stack([apart, *(torch.full_like(apart, v) for v in (0, 4, 2, 20))], dim=1)
    expected = torch.argsort(scores, descending=True, stable=True)
    if threshold is not None:
        expected = expected[scores[expected] > threshold]
    assert torch.equal(nms_rotated(boxes, scores, 0.1, score_threshold=threshold), expected)
