from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from tcm_d2.data.dota import patches as patches_module
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.labels import read_label
from tcm_d2.data.dota.manifest import PatchRecord, read_manifest, write_manifest
from tcm_d2.data.dota.split import SplitConfig, SplitSource, SplitSummary, split_dataset
from tests.data.dota.conftest import WriteDota, rectangle

SMALL = SplitConfig(patch_size_px=64, gap_px=16)


def _split(root: Path, out: Path, config: SplitConfig = SMALL, **options: object) -> SplitSummary:
    source = SplitSource(root / "images", root / "labelTxt")
    if options.pop("no_labels", False):
        source = SplitSource(root / "images", None)
    arguments = {"classes": DOTA_V1_CLASSES, "num_workers": 1, "show_progress": False, **options}
    return split_dataset([source], out, config=config, **arguments)


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def root(write_dota: WriteDota) -> Path:
    write_dota("P0001", (100, 130), [rectangle(60, 10, 70, 20, "ship", 1)])
    write_dota("P0002", (40, 50), [rectangle(5, 5, 20, 12, "plane")])
    return write_dota("P0003", (64, 64), [])


def test_patches_hold_the_pixels_and_the_objects(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = _split(root, out)
    records = {record.patch_id: record for record in read_manifest(out / "manifest.jsonl")}
    # 130 px: starts 0, 48, 66; 100 px: starts 0, 36.
    expected = {f"P0001__64__{x}___{y}" for x in (0, 48, 66) for y in (0, 36)}
    assert set(records) == expected | {"P0002__64__0___0", "P0003__64__0___0"}
    assert (summary.num_images, summary.num_patches, summary.num_source_objects) == (3, 8, 2)
    source = cv2.imread(str(root / "images" / "P0001.png"))
    for patch_id in expected:
        record = records[patch_id]
        x, y = int(record.x0), int(record.y0)
        patch = cv2.imread(str(out / record.file_name))
        assert np.array_equal(patch, source[y : y + 64, x : x + 64])
        assert (record.scale, record.width, record.height) == (1.0, 64, 64)
    # The ship (60..70 x 10..20): 40% in the first column, whole in the second, 40% in the third.
    counts = {key: record.num_objects for key, record in records.items() if record.num_objects}
    assert counts == {"P0001__64__48___0": 1, "P0002__64__0___0": 1}
    label = read_label(out / "labelTxt" / "P0001__64__48___0.txt")
    assert label.objects[0].quad == (12, 10, 22, 10, 22, 20, 12, 20)
    assert label.objects[0].difficult == 1
    assert (label.image_source, label.gsd) == ("test", 0.5)
    assert read_label(out / "labelTxt" / "P0001__64__0___0.txt").objects == []


def test_image_smaller_than_a_patch_is_padded_like_mmrotate(root: Path, tmp_path: Path) -> None:
    _split(root, tmp_path / "out")
    patch = cv2.imread(str(tmp_path / "out" / "images" / "P0002__64__0___0.png"))
    assert np.array_equal(patch[:40, :50], cv2.imread(str(root / "images" / "P0002.png")))
    assert (patch[40:] == (104, 116, 124)).all()  # in OpenCV's blue, green, red order
    assert (patch[:, 50:] == (104, 116, 124)).all()


def test_objects_cut_by_the_border_stay_whole_from_70_percent_on(
    write_dota: WriteDota, tmp_path: Path
) -> None:
    lines = [
        rectangle(57, 4, 67, 9, "ship"),  # 70% in the first patch
        rectangle(58, 14, 68, 19, "ship", 1),  # 60%
        rectangle(41, 24, 51, 29, "plane"),  # 30% in the second patch
    ]
    root = write_dota("P1", (64, 112), lines)
    _split(root, tmp_path / "keep")
    first = read_label(tmp_path / "keep" / "labelTxt" / "P1__64__0___0.txt").objects
    assert [obj.quad[0] for obj in first] == [57, 41]
    assert first[0].quad[2] == 67
    assert [obj.difficult for obj in first] == [0, 0]
    second = read_label(tmp_path / "keep" / "labelTxt" / "P1__64__48___0.txt").objects
    assert [obj.quad[0] for obj in second] == [9, 10]
    _split(root, tmp_path / "mark", dataclasses.replace(SMALL, mark_truncated=True))
    marked = read_label(tmp_path / "mark" / "labelTxt" / "P1__64__0___0.txt").objects
    assert [obj.difficult for obj in marked] == [2, 0]


def test_multi_scale_windows_are_resized_and_the_manifest_leads_back(
    write_dota: WriteDota, tmp_path: Path
) -> None:
    root = write_dota("P1", (200, 200), [rectangle(101, 61, 121, 71, "ship")])
    config = SplitConfig(patch_size_px=64, gap_px=16, rates=(0.5, 1.0, 1.5))
    _split(root, tmp_path / "out", config)
    records = read_manifest(tmp_path / "out" / "manifest.jsonl")
    windows = {int(record.patch_id.split("__")[1]) for record in records}
    assert windows == {128, 64, 42}
    seen = set()
    for record in records:
        assert (record.width, record.height) == (64, 64)
        window_px = int(record.patch_id.split("__")[1])
        assert record.scale == 64 / window_px
        for obj in read_label(tmp_path / "out" / "labelTxt" / f"{record.patch_id}.txt").objects:
            quad = np.array(obj.quad).reshape(4, 2)
            back = (quad + (record.x0, record.y0)) / record.scale
            np.testing.assert_allclose(back[0], (101, 61), atol=1e-3)
            np.testing.assert_allclose(back[2], (121, 71), atol=1e-3)
            seen.add(window_px)
    assert seen == windows
    half = next(r for r in records if r.patch_id == "P1__128__72___0")
    patch = cv2.imread(str(tmp_path / "out" / half.file_name)).astype(int)
    source = cv2.imread(str(root / "images" / "P1.png"))[0:128, 72:200].astype(int)
    means = (source[::2, ::2] + source[1::2, ::2] + source[::2, 1::2] + source[1::2, 1::2]) / 4
    assert abs(patch - means).max() <= 0.51
    raw = dataclasses.replace(config, resize_patches=False)
    _split(root, tmp_path / "raw", raw)
    sizes = {r.width for r in read_manifest(tmp_path / "raw" / "manifest.jsonl")}
    assert sizes == {128, 64, 42}


def test_patches_without_objects_can_be_dropped(root: Path, tmp_path: Path) -> None:
    summary = _split(root, tmp_path / "out", dataclasses.replace(SMALL, keep_empty=False))
    assert (summary.num_patches, summary.num_empty_patches) == (2, 0)
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2


def test_two_workers_give_the_same_files_as_one(root: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert _split(root, one) == _split(root, two, num_workers=2)
    assert _tree(one) == _tree(two)


@pytest.mark.timeout(120)
def test_workers_do_not_hang_after_opencv_has_used_threads_here(root: Path, tmp_path: Path) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        cv2.resize(np.zeros((2000, 2000, 3), dtype=np.uint8), (999, 999))
        assert _split(root, tmp_path / "two", num_workers=2).num_images == 3
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(before)


def test_dry_run_counts_and_writes_nothing(root: Path, tmp_path: Path) -> None:
    planned = _split(root, tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    assert planned == _split(root, tmp_path / "out")


def test_interrupted_split_goes_on_and_gives_the_same_files(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _split(root, tmp_path / "whole")
    out = tmp_path / "out"
    write, written = patches_module.write_bytes_atomically, []

    def fail_later(path: Path, content: bytes) -> None:
        if len(written) == 7:  # in the second image
            raise OSError("disk full")
        written.append(path)
        write(path, content)

    monkeypatch.setattr(patches_module, "write_bytes_atomically", fail_later)
    with pytest.raises(OSError, match="disk full"):
        _split(root, out)
    assert (out / "manifest.partial.jsonl").is_file()
    assert not (out / "manifest.jsonl").exists()
    # What a kill can leave: a cut line and a temporary file.
    with (out / "manifest.partial.jsonl").open("a") as stream:
        stream.write('{"image_id":"P0003","patches":[{"patch')
    (out / "images" / ".P0003__64__0___0.png.x7").write_bytes(b"half")
    monkeypatch.setattr(patches_module, "write_bytes_atomically", write)
    before = {path: path.stat().st_mtime_ns for path in (out / "images").glob("P0001*")}
    summary = _split(root, out)
    assert summary.num_resumed >= 1
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert _tree(out) == _tree(tmp_path / "whole")


def test_finished_split_is_left_alone_and_changes_are_noticed(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _split(root, out)
    before = _tree(out)
    assert _split(root, out).num_resumed == 3
    assert _tree(out) == before
    (out / "images" / "P0001__64__0___0.png").unlink()
    (root / "labelTxt" / "P0002.txt").write_text(rectangle(1, 1, 9, 9, "harbor") + "\n")
    assert _split(root, out).num_resumed == 1
    assert (out / "images" / "P0001__64__0___0.png").read_bytes() == before[
        "images/P0001__64__0___0.png"
    ]
    label = read_label(out / "labelTxt" / "P0002__64__0___0.txt")
    assert [obj.class_name for obj in label.objects] == ["harbor"]


def test_resuming_with_other_settings_or_into_a_strange_folder_is_refused(
    root: Path, tmp_path: Path, write_dota: WriteDota
) -> None:
    out = tmp_path / "out"
    _split(root, out)
    with pytest.raises(ValueError, match=r"other settings \(gap_px 16 -> 8\)"):
        _split(root, out, dataclasses.replace(SMALL, gap_px=8))
    with pytest.raises(ValueError, match=r"other settings .has_labels True -> False"):
        _split(root, out, no_labels=True)
    with pytest.raises(ValueError, match="got other files"):
        _split(root, root)
    other = write_dota("P0009", (64, 64), [], folder="other")
    with pytest.raises(ValueError, match="patches of 3 images that are not among the sources"):
        _split(other, out)


def test_images_without_label_and_labels_without_image(
    root: Path, tmp_path: Path, write_dota: WriteDota, caplog: pytest.LogCaptureFixture
) -> None:
    write_dota("P0004", (64, 64), None)
    with pytest.raises(ValueError, match=r"1 x image without label \(P0004\)"):
        _split(root, tmp_path / "out")
    (root / "images" / "P0004.png").unlink()
    (root / "labelTxt" / "P0005.txt").write_text("")
    with pytest.raises(ValueError, match=r"1 x label without image \(P0005\)"):
        _split(root, tmp_path / "out")
    with caplog.at_level(logging.WARNING):
        config = dataclasses.replace(SMALL, on_missing="skip")
        summary = _split(root, tmp_path / "out", config)
    assert summary.skipped == {"label without image": 1}
    assert "P0005" in caplog.text
    # Without labels there is nothing to pair.
    assert _split(root, tmp_path / "test", no_labels=True).num_images == 3
    assert not (tmp_path / "test" / "labelTxt").exists()


@pytest.mark.parametrize("content", ["truncated", "text", "empty"])
def test_unreadable_images_are_named_or_counted(root: Path, tmp_path: Path, content: str) -> None:
    path = root / "images" / "P0001.png"
    whole = path.read_bytes()
    path.write_bytes(
        {"truncated": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[content]
    )
    with pytest.raises(ValueError, match=r"P0001\.png: expected a"):
        _split(root, tmp_path / "out")
    config = dataclasses.replace(SMALL, on_bad_image="skip")
    summary = _split(root, tmp_path / "out", config)
    assert summary.skipped == {"unreadable image": 1}
    assert summary.num_images == 2
    ids = {record.image_id for record in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    assert ids == {"P0002", "P0003"}


def test_bad_label_lines_stop_the_split_or_are_counted(root: Path, tmp_path: Path) -> None:
    with (root / "labelTxt" / "P0002.txt").open("a") as stream:
        stream.write("1 2 3 4 ship\n")
    with pytest.raises(ValueError, match=r"P0002\.txt:4: expected 9 or 10 fields"):
        _split(root, tmp_path / "out", num_workers=2)
    summary = _split(root, tmp_path / "out", dataclasses.replace(SMALL, on_error="skip"))
    assert summary.label_problems.counts == {"wrong number of fields": 1}
    assert summary.num_patch_objects == 2


def test_missing_and_empty_folders_and_double_ids_are_refused(
    root: Path, tmp_path: Path, write_dota: WriteDota
) -> None:
    with pytest.raises(FileNotFoundError, match=r"image folder .*nowhere"):
        _split(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "void" / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match="expected images, found none"):
        _split(tmp_path / "void", tmp_path / "out")
    other = write_dota("P0001", (64, 64), [], folder="other")
    sources = [SplitSource(path / "images", path / "labelTxt") for path in (root, other)]
    with pytest.raises(ValueError, match="image id 'P0001': expected once"):
        split_dataset(sources, tmp_path / "out", config=SMALL, classes=None, num_workers=1)
    sources[1] = SplitSource(other / "images", None)
    with pytest.raises(ValueError, match="got a mix"):
        split_dataset(sources, tmp_path / "out", config=SMALL, classes=None, num_workers=1)


def test_contradicting_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="gap_px: expected 0 <= gap < patch size 100, got 100"):
        SplitConfig(patch_size_px=100, gap_px=100)
    with pytest.raises(ValueError, match="rates"):
        SplitConfig(rates=(0.0,))
    with pytest.raises(ValueError, match="min_object_iof"):
        SplitConfig(min_object_iof=70)
    with pytest.raises(ValueError, match="image_suffix"):
        SplitConfig(image_suffix=".gif")


def test_manifest_round_trip_and_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    record = PatchRecord("a__64__0___0", "images/a.png", "a", 1.5, 2.0, 64, 64, 1.5, 3)
    write_manifest(path, [record])
    assert read_manifest(path) == [record]
    row = json.loads(path.read_text())
    del row["scale"]
    path.write_text(f"{json.dumps(row)}\n")
    with pytest.raises(ValueError, match=r"manifest\.jsonl:1: .*without scale"):
        read_manifest(path)
    path.write_text('{"patch_id": \n')
    with pytest.raises(ValueError, match=r"manifest\.jsonl:1: expected one JSON object"):
        read_manifest(path)
    with pytest.raises(FileNotFoundError, match="tcm-d2 split"):
        read_manifest(tmp_path / "none.jsonl")


@pytest.mark.realdata
def test_real_patches_hold_the_objects_that_mmrotate_keeps(
    realdata_dir: Path, tmp_path: Path
) -> None:
    source = realdata_dir / "dota" / "dotadevkit"
    config = SplitConfig(on_missing="skip")
    summary = split_dataset(
        [SplitSource(source / "images", source / "labelTxt")],
        tmp_path / "out",
        config=config,
        classes=DOTA_V1_CLASSES,
        num_workers=2,
        show_progress=False,
    )
    assert (summary.num_images, summary.num_patches) == (3, 11)
    records = read_manifest(tmp_path / "out" / "manifest.jsonl")
    # Counted with mmrotate's img_split.py on the same files.
    counts = {r.patch_id: r.num_objects for r in records if r.image_id == "P0706"}
    assert counts == {
        "P0706__1024__0___0": 499,
        "P0706__1024__0___158": 492,
        "P0706__1024__87___0": 502,
        "P0706__1024__87___158": 503,
    }
    for record in records:
        whole = read_label(source / "labelTxt" / f"{record.image_id}.txt").objects
        known = {(obj.quad, obj.class_name, obj.difficult) for obj in whole}
        label = read_label(tmp_path / "out" / "labelTxt" / f"{record.patch_id}.txt")
        for obj in label.objects:
            quad = np.array(obj.quad).reshape(4, 2) + (record.x0, record.y0)
            assert (tuple(quad.reshape(-1)), obj.class_name, obj.difficult) in known


EVIL_NAMES = ["../../outside.png", "/outside.png", "images/../../outside.png", "images/a/b"]


@pytest.mark.parametrize("name", EVIL_NAMES)
@pytest.mark.parametrize("which", ["file_name", "patch_id", "image_id"])
def test_a_manifest_cannot_delete_files_outside_its_folder(
    root: Path, tmp_path: Path, name: str, which: str
) -> None:
    """The names in it were joined unchecked, and files they named were unlinked."""
    out, outside = tmp_path / "a" / "out", tmp_path / "outside.png"
    _split(root, out)
    outside.write_bytes(b"mine")
    path = out / "manifest.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2] |= {which: name if which == "file_name" else name.replace("images", "../images")}
    rows[2]["source_stamp"] = "changed"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=rf"manifest\.jsonl:3: {which}: expected"):
        _split(root, out)
    assert outside.read_bytes() == b"mine"


@pytest.mark.parametrize("row", ["[]", "7", '{"image_id": "P1"}', '{"patches": []}'])
def test_strange_lines_of_an_interrupted_split_are_named(
    root: Path, tmp_path: Path, row: str
) -> None:
    out = tmp_path / "out"
    _split(root, out)
    (out / "manifest.partial.jsonl").write_text(row + "\n")
    with pytest.raises(ValueError, match=r"manifest\.partial\.jsonl:1: "):
        _split(root, out)
