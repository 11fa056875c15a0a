"""Every reader on random files: what is valid is read, what is damaged is said.

``python -m tests.data.test_readers_random 10000`` tries so many examples of each reader, a third of
each property.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tcm_d2.data.conversion import convert_annotations, read_annotations
from tcm_d2.data.dota.labels import read_label
from tcm_d2.data.formats.contract import all_formats
from tcm_d2.data.formats.reading import FormatMismatch, Reading, ReadOptions
from tests.data.format_cases import CASES, SIZE_HW, Box, Damage, FormatCase

NUM_EXAMPLES = 25
# What damage puts where a number was; texts for XML and rows, values for JSON.
BAD_TEXTS = ["nan", "inf", "-inf", "", "abc", "1e999", "1_0", "--", "0x10", "1,5;"]
BAD_VALUES = [float("nan"), float("inf"), "abc", None, True, [], {}, "", 1e300, "1_0"]


def boxes_of(case: FormatCase, min_size: int = 0) -> st.SearchStrategy[list[Box]]:
    def real(low: float, high: float) -> st.SearchStrategy[float]:
        return st.floats(low, high, allow_subnormal=False).map(lambda value: round(value, 6))

    difficult = st.integers(0, 1) if case.keeps_difficult else st.just(0)
    one = st.builds(
        Box,
        *(real(-100, 900), real(-100, 700), real(0.5, 400), real(0.5, 400), real(-180, 180)),
        st.sampled_from(case.names),
        difficult,
    )
    return st.lists(one, min_size=min_size, max_size=5)


def options_of(case: FormatCase, folder: Path, on_error: str = "stop") -> ReadOptions:
    images = {"a": folder / "a.png"} if case.format == "yolo-obb" else {}
    return ReadOptions(classes=case.classes, image_paths=images, on_error=on_error)  # type: ignore[arg-type]


def read(case: FormatCase, folder: Path, content: bytes, fmt: str, on_error: str) -> Reading:
    path = folder / case.file_name
    path.write_bytes(content)
    return read_annotations(path, fmt, options_of(case, folder, on_error))


def check_valid(case: FormatCase, folder: Path, boxes: list[Box]) -> None:
    """Reading gives the objects, and the label file that is written gives them again."""
    fmt = "auto" if boxes else case.format
    content = case.write(boxes)
    images = folder if case.format == "yolo-obb" else None
    (folder / case.file_name).write_bytes(content)
    options = options_of(case, folder)
    summary = convert_annotations(
        folder / case.file_name,
        folder / "out",
        source_format=fmt,
        image_dir=images,
        options=options,
    )
    assert summary.read.kinds.total() == summary.read.kinds["turned"] == len(boxes)
    assert not summary.read.left_out.counts and not summary.read.repaired.counts
    objects = read_label(folder / "out" / "a.txt").objects
    for obj, box in zip(objects, boxes, strict=True):
        assert (obj.class_name, obj.difficult) == ("-".join(box.name.split()), box.difficult)
        corners = np.array(obj.quad).reshape(4, 2)
        np.testing.assert_allclose(corners, box.corners(), atol=2e-3)


def check_bad_number(
    case: FormatCase, folder: Path, boxes: list[Box], index: int, bad: int
) -> None:
    """One bad number is an error that says where; skipped, it costs and counts one object."""
    is_json = case.file_name.endswith(".json")
    damage = Damage(index, BAD_VALUES[bad] if is_json else BAD_TEXTS[bad])
    content = case.write(boxes, damage)
    with pytest.raises(ValueError) as caught:
        read(case, folder, content, case.format, "stop")
    text = str(caught.value)
    if isinstance(caught.value, FormatMismatch):
        # All rows without one column can be rows of another format: the whole file is refused.
        assert damage.token == "" and len(boxes) == 1 and case.file_name in text, text
        with pytest.raises(FormatMismatch):
            read(case, folder, content, case.format, "skip")
        return
    place = rf"(:{index + 1}: | (object|annotation|shape|region) {index + 1}: )"
    assert case.file_name in text and re.search(place, text), text
    reading = read(case, folder, content, case.format, "skip")
    left_out = reading.summary.left_out.counts.total()
    assert (reading.summary.num_objects, left_out) == (len(boxes) - 1, 1)


def check_damage(
    case: FormatCase, folder: Path, boxes: list[Box], cuts: list[tuple[float, float, bytes]]
) -> None:
    """Bytes replaced anywhere give an error with the file's name, or no object is lost unsaid."""
    content = case.write(boxes)
    for where, length, new in cuts:
        start = int(where * len(content))
        content = content[:start] + new + content[start + int(length * 20) :]
    for fmt in (case.format, "auto"):
        try:
            reading = read(case, folder, content, fmt, "skip")
        except ValueError as error:
            assert case.file_name in str(error), error
            continue
        known = count_objects(case, content)
        found = reading.summary.num_objects + reading.summary.left_out.counts.total()
        assert known is None or found >= known, (fmt, content)


def count_objects(case: FormatCase, content: bytes) -> int | None:
    """Return how many objects a damaged file still has, by looks alone."""
    text = content.decode("utf-8", "replace")
    if case.file_name.endswith(".xml"):
        return max(
            len(re.findall(rf"<{tag}[ >]", text)) for tag in ("object", "HRSC_Object", "box")
        )
    if case.file_name.endswith(".txt"):
        return sum(bool(line.strip()) for line in text.splitlines())
    try:
        tree = json.loads(text)
        if isinstance(tree, list):
            return sum(len(task["annotations"][0]["result"]) for task in tree)
        return len(tree.get("annotations", tree.get("shapes")))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("random"))


def make_folder(folder: Path) -> Path:
    assert cv2.imwrite(str(folder / "a.png"), np.zeros((*SIZE_HW, 3), np.uint8))
    return folder


def run(case: FormatCase, folder: Path, num_examples: int) -> None:
    """Try the three properties of a reader."""
    rules = settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        derandomize=num_examples <= NUM_EXAMPLES,
        suppress_health_check=list(HealthCheck),
    )
    cuts = st.tuples(st.floats(0, 1), st.floats(0, 1), st.binary(max_size=6))
    written = st.tuples(
        st.floats(0, 1), st.floats(0, 1), st.sampled_from([b"<", b"]", b"\n", b"9"])
    )

    @rules
    @given(boxes_of(case))
    def valid(boxes: list[Box]) -> None:
        check_valid(case, folder, boxes)

    @rules
    @given(boxes_of(case, min_size=1), st.integers(0, 4), st.integers(0, len(BAD_TEXTS) - 1))
    def bad_number(boxes: list[Box], index: int, bad: int) -> None:
        check_bad_number(case, folder, boxes, index % len(boxes), bad)

    @rules
    @given(boxes_of(case), st.lists(st.one_of(cuts, written), min_size=1, max_size=3))
    def damaged(boxes: list[Box], places: list[tuple[float, float, bytes]]) -> None:
        check_damage(case, folder, boxes, places)

    valid()
    bad_number()
    damaged()


def test_every_format_is_tried() -> None:
    assert {case.format for case in CASES.values()} == set(all_formats())


@pytest.mark.parametrize("name", CASES)
def test_random_files(folder: Path, name: str) -> None:
    run(CASES[name], folder, NUM_EXAMPLES)


def main() -> None:
    """Try as many examples of each reader as the command line says."""
    num_examples = int(sys.argv[1])
    for name in sys.argv[2:] or CASES:
        with tempfile.TemporaryDirectory() as where:
            started = time.monotonic()
            run(CASES[name], make_folder(Path(where)), -(-num_examples // 3))
            seconds = time.monotonic() - started
            print(f"{name:14} {num_examples} examples, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
