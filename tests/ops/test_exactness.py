"""The operators against the oracle in extended precision: a small sample of the large run.

tools/check_ops_exactness.py is the large run, with ten million pairs.
"""

from __future__ import annotations

import check_ops_exactness
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcm_d2.ops.registration import OPERATORS
from tests.ops.exactness import checks, families, oracle, quads
from tests.ops.oracle import FAMILIES, box_pairs, exact_overlap

SETTINGS = settings(max_examples=50, deadline=None, derandomize=True, database=None)


def complaints(tally: checks.Tally, limits: dict[str, float]) -> list[str]:
    assert tally.num_pairs > 0 and set(limits) <= set(tally.errors)
    return check_ops_exactness.complaints({"here": tally}, limits)


@pytest.mark.skipif(not oracle.IS_EXTENDED, reason="long double is no wider than float64 here")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_oracle_equals_shapely(family: str) -> None:
    boxes1, boxes2 = box_pairs(family, 300, torch.float64)
    truth = oracle.pair_truth(boxes1.numpy(), boxes2.numpy())
    exchanged = oracle.pair_truth(boxes2.numpy(), boxes1.numpy())
    assert np.abs(truth.iou - exchanged.iou).max() < 1e-15
    for mode, values in (("iou", truth.iou), ("iof", truth.iof)):
        by_shapely = exact_overlap(boxes1, boxes2, mode=mode).numpy()
        assert np.abs(values - by_shapely).max() < 1e-11


def test_the_oracle_by_hand() -> None:
    square = np.array([[0.0, 0.0, 2.0, 2.0, 0.0]])
    diamond = np.array([[0.0, 0.0, np.sqrt(2.0), np.sqrt(2.0), 45.0]])
    truth = oracle.pair_truth(square, diamond)
    assert float(truth.iou[0]) == pytest.approx(0.5, abs=1e-15)
    assert float(truth.iof[0]) == pytest.approx(0.5, abs=1e-15)
    corner = np.array([[2.0, 2.0, 2.0, 2.0, 90.0]])
    assert float(oracle.pair_truth(square, corner).diou[0]) == pytest.approx(-8 / 32, abs=1e-15)
    assert float(oracle.inside_margin(np.array([[0.5, 0.0]]), square)[0]) == pytest.approx(0.5)
    # A bow tie: two triangles of area 1 that wind in opposite ways, and one of them.
    tie = np.array([[[0.0, 0.0], [2.0, 2.0], [2.0, 0.0], [0.0, 2.0]]])
    left = np.array([[[0.0, 0.0], [1.0, 1.0], [0.0, 2.0], [0.0, 1.0]]])
    assert not np.isfinite(oracle.quad_iou_truth(tie, left)[0]) or (
        float(oracle.quad_iou_truth(tie, left)[0]) == 0
    )
    assert float(oracle.quad_iou_truth(left, left[:, ::-1])[0]) == pytest.approx(1.0)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_families_of_boxes_are_exact(family: str) -> None:
    tally = checks.check_family(family, 300, seed=7)
    assert complaints(tally, check_ops_exactness.LIMITS) == []


@pytest.mark.parametrize("family", quads.FAMILIES)
def test_families_of_quads_are_exact(family: str) -> None:
    tally = quads.check_quads(family, 300, seed=7)
    assert complaints(tally, check_ops_exactness.QUAD_LIMITS) == []


@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_reference_is_exact(family: str) -> None:
    for dtype, limit in ((np.float32, 1e-7), (np.float64, 1e-10)):
        one, two = (boxes.astype(dtype) for boxes in families.draw_pairs(family, 1000, 3))
        iou = (
            OPERATORS["paired_iou_rotated"]
            .reference(torch.from_numpy(one), torch.from_numpy(two))
            .numpy()
        )
        assert ((iou >= 0) & (iou <= 1)).all()
        assert np.abs(iou - oracle.pair_truth(one, two).iou).max() <= limit


def _side() -> st.SearchStrategy[float]:
    return st.one_of(
        st.floats(-3, 5).map(lambda power: 10.0**power),
        st.sampled_from([0.0, 1e-3, 1.0, 4.0, 1e5]),
    )


def _angle_deg() -> st.SearchStrategy[float]:
    return st.one_of(
        st.floats(-720, 720), st.sampled_from([-90.0, 90.0, 0.0, 45.0, 180.0, 89.99999]), st.just(0)
    )


def _box() -> st.SearchStrategy[list[float]]:
    centre = st.one_of(st.floats(-100, 100), st.floats(-1e5, 1e5))
    return st.tuples(centre, centre, _side(), _side(), _angle_deg()).map(list)


@st.composite
def _pair(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """A box, and one that is free, the same, a little off, renamed, or has a border in common."""
    box = draw(_box())
    how = draw(st.sampled_from(["free", "same", "off", "turned", "beside", "inside"]))
    x, y, w, h, angle_deg = box
    if how == "free":
        return box, draw(_box())
    if how == "off":
        size = 10.0 ** draw(st.integers(-7, 0))
        noise = [size * draw(st.floats(-1, 1)) for _ in range(5)]
        return box, [x + noise[0], y + noise[1], abs(w + noise[2]), abs(h + noise[3]),
                     angle_deg + noise[4]]  # fmt: skip
    if how == "turned":
        turns = draw(st.integers(-4, 4))
        sides = (w, h) if turns % 2 == 0 else (h, w)
        return box, [x, y, *sides, angle_deg + 90.0 * turns]
    if how == "beside":
        cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
        shift = w * draw(st.sampled_from([0.5, 1.0, -1.0, 0.25, 2.0]))
        return box, [x + shift * cos, y - shift * sin, w, h, angle_deg]
    if how == "inside":
        return box, [x, y, w / 2, h / 3, angle_deg + draw(_angle_deg())]
    return box, list(box)


@SETTINGS
@given(st.lists(_pair(), min_size=1, max_size=10))
def test_any_pairs_are_exact(pairs: list[tuple[list[float], list[float]]]) -> None:
    boxes1, boxes2 = (np.array(boxes, np.float64) for boxes in zip(*pairs))
    assert complaints(checks.check_pairs(boxes1, boxes2), check_ops_exactness.LIMITS) == []


def test_a_wrong_operator_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = checks.ops.paired_iou_rotated
    monkeypatch.setattr(checks.ops, "paired_iou_rotated", lambda a, b: right(a, b) * 1.001)
    found = complaints(checks.check_family("identical", 10, 0), check_ops_exactness.LIMITS)
    text = "\n".join(found)
    assert "IoU fp64 is off by 1.0" in text and "outside [0, 1] or NaN: 20" in text
    assert "IoU(a, a) != 1" in text and "pairwise != paired" in text


def test_the_report_has_a_row_for_each_family(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    output = tmp_path / "deep" / "exactness.md"
    status = check_ops_exactness.main(["--pairs", "130", "--peers", "--output", str(output)])
    text = output.read_text(encoding="ascii")
    assert status == 0 and "NOT EXACT" not in capsys.readouterr().out
    for family in (*families.FAMILIES, *quads.FAMILIES):
        assert f"| {family} |" in text
    assert "torchvision" in text and "--pairs 130 --peers" in text
