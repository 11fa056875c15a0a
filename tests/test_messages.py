"""Near matches and lists of names in error messages."""

from __future__ import annotations

from tcm_d2.messages import near_match_hint, near_matches, some_names


def test_near_matches_ignore_case_and_come_nearest_first() -> None:
    known = ["ship", "Ship-Hull", "plane", "SHIP", "warship"]
    assert near_matches("SHIPP", known) == ["ship", "SHIP", "warship"]
    assert near_matches("ship-hul", known, num=1) == ["Ship-Hull"]
    assert near_match_hint("shp", ["ship", "plane"]) == "; near matches: ship"
    assert near_match_hint("harbor", ["ship", "plane"]) == ""


def test_some_names_count_what_they_leave_out() -> None:
    assert some_names(["a", "b"]) == "a, b"
    assert some_names(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert some_names([1, 2, 3], "; ", num=2) == "1; 2 and 1 more"
