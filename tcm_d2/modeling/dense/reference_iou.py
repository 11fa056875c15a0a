"""The rotated IoU of the reference implementation, to the last bit of its float32 rounding.

The exact IoU (``tcm_d2.ops``) gives one value to all anchors of one area that contain an object;
the reference's value differs in its last bits from anchor to anchor, and its assigners compare such
values with ``==`` and ``max``. Who wants the reference's assignment therefore needs its rounding
errors, and this is all they are good for: everything else takes the exact IoU.

The order of the float32 operations is that of mmcv's CPU kernel ``box_iou_rotated`` (Apache-2.0),
itself from Detectron2's ``box_iou_rotated_utils.h``: both boxes shifted by their mean centre; the
points where sides cross, then the corners of either box inside the other; these sorted by angle
around the lowest point; Graham's scan; a fan of triangles. With it comes the kernel's defect: where
sides of the two boxes lie on one line the value can be far too low (0.19 for one rectangle twice).

Letters: Q pairs, V points of a pair, at most 24, of which some are live. Coordinates are (V, Q).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from tcm_d2.layers.precision import at_least_float32
from tcm_d2.structures.conversions import boxes_to_le90

# mmrotate makes sides at least this long before it calls the kernel.
MIN_SIDE_PX = 1e-3
# Pairs computed at a time: up to about 8 KiB each.
_MAX_PAIRS = 1 << 14
# The kernel's bounds: parallel sides, empty boxes, points of one direction, points that coincide.
# It compares float32 values with these as float64; the values below are the largest float32 ones
# that are not above them.
_PARALLEL = 9.99999982451670e-15  # 1e-14
_EMPTY = 9.99999982451670e-15
_SAME_DIRECTION = 9.99999997475243e-07  # 1e-6
_SAME_POINT = 9.99999993922529e-09  # 1e-8
# Pairs are sorted with others of about as many points, to spare most of them the work for 24.
_POINT_COUNTS = (2, 4, 8, 16, 24)


def to_reference_form(boxes: Tensor) -> Tensor:
    """Return boxes (M, 5) as the reference holds them: cx, cy, w, h, clockwise radians, float32.

    The last bit of the angle counts here. A float32 angle in degrees keeps it for 91% of the
    float32 angles in radians (there are fewer of the former); float64 degrees keep it always.

    Args:
        boxes: (M, 5) canonical boxes of any floating dtype.
    """
    result = boxes_to_le90(at_least_float32(boxes)).float()
    result[:, 2:4] = result[:, 2:4].clamp(min=MIN_SIDE_PX)
    return result


def reference_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the reference's IoU of each pair of boxes; the order of the two matters.

    Args:
        boxes1: (Q, 5) float32 from ``to_reference_form``.
        boxes2: (Q, 5), likewise.

    Returns:
        (Q,) float32, not confined to [0, 1]. No gradients flow.
    """
    chunks = zip(boxes1.detach().split(_MAX_PAIRS), boxes2.detach().split(_MAX_PAIRS))
    return torch.cat([_iou_of_chunk(first.t(), second.t()) for first, second in chunks])


def _iou_of_chunk(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the IoU (Q,) of boxes (5, Q)."""
    middle = (boxes1[:2] + boxes2[:2]) / 2
    points = _common_points(_corners(boxes1, middle), _corners(boxes2, middle))
    common = _hull_area(*points)
    area1, area2 = boxes1[2] * boxes1[3], boxes2[2] * boxes2[3]
    empty = (area1 <= _EMPTY) | (area2 <= _EMPTY)
    return torch.where(empty, 0.0, common / (area1 + area2 - common))


def _corners(boxes: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and y (4, Q) of the corners of boxes (5, Q), relative to ``middle`` (2, Q)."""
    center_x, center_y = boxes[:2] - middle
    half_cos = boxes[4].double().cos().float() * 0.5
    half_sin = boxes[4].double().sin().float() * 0.5
    width, height = boxes[2], boxes[3]
    x0 = center_x - half_sin * height - half_cos * width
    y0 = center_y + half_cos * height - half_sin * width
    x1 = center_x + half_sin * height - half_cos * width
    y1 = center_y - half_cos * height - half_sin * width
    return (
        torch.stack([x0, x1, 2 * center_x - x0, 2 * center_x - x1]),
        torch.stack([y0, y1, 2 * center_y - y0, 2 * center_y - y1]),
    )


def _common_points(
    corners1: tuple[Tensor, Tensor], corners2: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points that span the common area, x and y (24, Q), and which are live (24, Q)."""
    (x1, y1), (x2, y2) = corners1, corners2
    sides1 = x1.roll(-1, 0) - x1, y1.roll(-1, 0) - y1
    sides2 = x2.roll(-1, 0) - x2, y2.roll(-1, 0) - y2
    # Crossings of side i of the first box and side j of the second, (4, 4, Q).
    side1_x, side1_y = sides1[0][:, None], sides1[1][:, None]
    side2_x, side2_y = sides2[0][None], sides2[1][None]
    offset_x, offset_y = x2[None] - x1[:, None], y2[None] - y1[:, None]
    determinant = _cross(side2_x, side2_y, side1_x, side1_y)
    along1 = _cross(side2_x, side2_y, offset_x, offset_y) / determinant
    along2 = _cross(side1_x, side1_y, offset_x, offset_y) / determinant
    crosses = (along1 >= 0) & (along1 <= 1) & (along2 >= 0) & (along2 <= 1)
    crosses = crosses & (determinant.abs() > _PARALLEL)
    crossing_x, crossing_y = x1[:, None] + side1_x * along1, y1[:, None] + side1_y * along1
    return (
        torch.cat([crossing_x.flatten(0, 1), x1, x2]),
        torch.cat([crossing_y.flatten(0, 1), y1, y2]),
        torch.cat(
            [
                crosses.flatten(0, 1),
                _lies_inside(corners1, corners2, sides2),
                _lies_inside(corners2, corners1, sides1),
            ]
        ),
    )


def _lies_inside(
    points: tuple[Tensor, Tensor], corners: tuple[Tensor, Tensor], sides: tuple[Tensor, Tensor]
) -> Tensor:
    """Return whether each of the points (4, Q) lies in the rectangle of these corners and sides."""
    offset_x, offset_y = points[0] - corners[0][0], points[1] - corners[1][0]
    first_x, first_y, last_x, last_y = sides[0][0], sides[1][0], sides[0][3], sides[1][3]
    along_first = offset_x * first_x + offset_y * first_y
    along_last = -(offset_x * last_x + offset_y * last_y)
    return (
        (along_first >= 0)
        & (along_last >= 0)
        & (along_first <= first_x * first_x + first_y * first_y)
        & (along_last <= last_x * last_x + last_y * last_y)
    )


def _hull_area(x: Tensor, y: Tensor, live: Tensor) -> Tensor:
    """Return the area (Q,) of the hull of the live ones of the points (24, Q)."""
    # Move the live points of a pair to the front, in their order; the last row takes the others.
    slots, num_points = [], torch.zeros_like(live[0], dtype=torch.int32)
    for row in live:
        slots.append(torch.where(row, num_points, len(live)))
        num_points = num_points + row
    slot = torch.stack(slots).long()
    x, y = (x.new_zeros(len(live) + 1, x.shape[1]).scatter_(0, slot, points) for points in (x, y))
    area = x.new_zeros(x.shape[1])
    for fewest, most in itertools.pairwise(_POINT_COUNTS):
        pairs = ((num_points > fewest) & (num_points <= most)).nonzero(as_tuple=True)[0]
        if len(pairs) > 0:
            packed_x, packed_y = (points[:most].index_select(1, pairs) for points in (x, y))
            area[pairs] = _scan(*_sort_by_angle(packed_x, packed_y, num_points[pairs]))
    return area


def _sort_by_angle(x: Tensor, y: Tensor, num_points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points (V, Q) from the lowest one, in the order of their directions from it.

    Args:
        x: (V, Q), of which the first ``num_points`` of a column count.
        y: likewise.
        num_points: (Q,) int32, >= 3.

    Returns:
        x and y (V, Q) relative to the lowest point, which comes first; ``num_points``.
    """
    index = torch.arange(len(x), device=x.device, dtype=torch.int32)[:, None]  # (V, 1)
    live = index < num_points
    lowest_y = torch.where(live, y, torch.inf).amin(dim=0)
    is_lowest = live & (y == lowest_y)
    lowest_x = torch.where(is_lowest, x, torch.inf).amin(dim=0)
    lowest = torch.where(is_lowest & (x == lowest_x), index, len(x)).amin(dim=0)[None].long()
    x, y = x - x.gather(0, lowest), y - y.gather(0, lowest)
    # The lowest point changes places with the first one.
    x, y = x.scatter(0, lowest, x[:1]), y.scatter(0, lowest, y[:1])
    x[0], y[0] = 0, 0

    squared = x * x + y * y
    turn = _cross(x[:, None], y[:, None], x[None], y[None])  # (V, V, Q)
    same = turn.abs() <= _SAME_DIRECTION
    # before[i, j]: point i belongs before point j. Not transitive where directions are close.
    before = torch.where(same, squared[:, None] < squared[None], turn > 0)
    before = before & live[:, None] & live[None]
    before[0] = False
    # The number of points before a point is its place, unless two claim one place.
    rank = before.view(torch.uint8).sum(dim=0, dtype=torch.uint8).int() + 1
    rank = torch.where(live & (index > 0), rank, index).long()
    taken = torch.zeros_like(live).scatter_(0, rank, torch.ones_like(live))
    order = torch.zeros_like(rank).scatter_(0, rank, index.long().expand_as(rank))
    unclear = (~taken.all(dim=0)).nonzero(as_tuple=True)[0]
    if len(unclear) > 0:
        order[:, unclear] = _insertion_sort(before[:, :, unclear])
    return x.gather(0, order), y.gather(0, order), num_points


def _insertion_sort(before: Tensor) -> Tensor:
    """Return the order (V, Q) that insertion gives to points by ``before`` (V, V, Q).

    The outcome for a relation that is not transitive depends on the algorithm. This is that of the
    C++ library's ``sort`` up to 17 points; more with unclear directions were never met.
    """
    num_points, _, num_pairs = before.shape
    index = torch.arange(num_points, device=before.device)[:, None]
    order = index[:2].repeat(1, num_pairs)
    for item in range(2, num_points):
        # To the front if it belongs before the first, else behind the last it is not before.
        is_before = before[item].gather(0, order[1:])  # (item - 1, Q)
        place = torch.where(is_before, 0, index[1:item]).amax(dim=0)
        place = torch.where(is_before[0], 0, place) + 1
        here = index[: item + 1]
        order = torch.where(
            here < place,
            torch.cat([order, order[-1:]]),
            torch.where(here == place, item, torch.cat([order[:1], order])),
        )
    return order


def _scan(x: Tensor, y: Tensor, num_points: Tensor) -> Tensor:
    """Return the area (Q,) of the hull of sorted points (V, Q), the first of which is (0, 0)."""
    index = torch.arange(len(x), device=x.device, dtype=torch.int32)[:, None]
    far = (x * x + y * y > _SAME_POINT) & (index < num_points) & (index > 0)
    # Points at the first one's place are skipped.
    second = torch.where(far, index, len(x)).amin(dim=0)
    start = second.clamp(max=len(x) - 1)[None].long()
    x[1], y[1] = x.gather(0, start)[0], y.gather(0, start)[0]
    size = torch.full_like(
        num_points, 2, dtype=torch.int64
    )  # of the stack, which overwrites x and y from the front
    for item in range(2, len(x)):
        active = (second < item) & (num_points > item)
        item_x, item_y = x[item].clone(), y[item].clone()
        while True:
            top = (size - 1)[None]
            below = (top - 1).clamp(min=0)
            below_x, below_y = x.gather(0, below)[0], y.gather(0, below)[0]
            top_x, top_y = x.gather(0, top)[0] - below_x, y.gather(0, top)[0] - below_y
            turn = _cross(item_x - below_x, item_y - below_y, top_x, top_y)
            drop = active & (size > 1) & (turn >= 0)
            if not bool(drop.any()):
                break
            size = size - drop.long()
        place = torch.where(active, size, item)[None]
        x.scatter_(0, place, item_x[None])
        y.scatter_(0, place, item_y[None])
        size = size + active.long()
    triangles = _cross(x[1:-1], y[1:-1], x[2:], y[2:]).abs()  # (V - 2, Q)
    area = torch.zeros_like(x[0])
    for item, triangle in enumerate(triangles):
        area = torch.where(size > item + 2, area + triangle, area)
    return torch.where(second < len(x), area / 2, 0.0)


def _cross(ax: Tensor, ay: Tensor, bx: Tensor, by: Tensor) -> Tensor:
    return ax * by - bx * ay
