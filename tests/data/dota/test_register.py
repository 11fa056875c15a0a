from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.labels import read_label
from tcm_d2.data.dota.loading import load_dota_images, load_dota_split
from tcm_d2.data.dota.register import register_dota, register_dota_images, register_dota_split
from tcm_d2.data.dota.split import SplitConfig, SplitSource, split_dataset
from tests.data.dota.conftest import WriteDota, rectangle

CLASSES = ("ship", "plane")


@pytest.fixture(autouse=True)
def _clean_catalogs() -> Iterator[None]:
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def root(write_dota: WriteDota) -> Path:
    write_dota(
        "P0001", (64, 112), [rectangle(2, 3, 12, 8, "ship", 1), rectangle(90, 9, 99, 20, "plane")]
    )
    return write_dota("P0002", (64, 64), [])


@pytest.fixture
def patch_dir(root: Path, tmp_path: Path) -> Path:
    split_dataset(
        [SplitSource(root / "images", root / "labelTxt")],
        tmp_path / "patches",
        config=SplitConfig(patch_size_px=64, gap_px=16, rates=(1.0, 2.0)),
        classes=CLASSES,
        num_workers=1,
        show_progress=False,
    )
    return tmp_path / "patches"


def test_patch_dicts_carry_origin_and_scale(patch_dir: Path, root: Path) -> None:
    register_dota_split("t_patches", patch_dir, CLASSES, label_dir=root / "labelTxt")
    dicts = {item["image_id"]: item for item in DatasetCatalog.get("t_patches")}
    item = dicts["P0001__64__48___0"]
    assert item["file_name"] == str(patch_dir / "images" / "P0001__64__48___0.png")
    assert (item["height"], item["width"], item["source_image_id"]) == (64, 64, "P0001")
    assert (item["patch_origin_xy"], item["patch_scale"]) == ((48.0, 0.0), 1.0)
    quad, box = [[42, 9], [51, 9], [51, 20], [42, 20]], [46.5, 14.5, 11.0, 9.0, -90.0]
    assert item["annotations"] == [
        {"quad": quad, "bbox": box, "bbox_mode": 4, "category_id": 1, "difficult": 0}
    ]
    enlarged = dicts["P0001__32__0___0"]
    assert enlarged["patch_scale"] == 2.0
    quad = np.array(enlarged["annotations"][0]["quad"])
    source = (quad + enlarged["patch_origin_xy"]) / enlarged["patch_scale"]
    assert source.tolist() == [[2, 3], [12, 3], [12, 8], [2, 8]]
    assert enlarged["annotations"][0]["difficult"] == 1
    metadata = MetadataCatalog.get("t_patches")
    assert metadata.thing_classes == ["ship", "plane"]
    assert metadata.evaluator_type == "dota"
    assert metadata.label_dir == str(root / "labelTxt")


def test_patches_without_objects_are_dropped_for_training(patch_dir: Path) -> None:
    register_dota_split("t_patches", patch_dir, CLASSES)
    everything = DatasetCatalog.get("t_patches")
    filled = [item for item in everything if item["annotations"]]
    assert 0 < len(filled) < len(everything)
    trained_on = get_detection_dataset_dicts(["t_patches"], filter_empty=True)
    assert [item["image_id"] for item in trained_on] == [item["image_id"] for item in filled]
    dropped = load_dota_split(patch_dir, CLASSES, drop_empty=True)
    assert [item["image_id"] for item in dropped] == [item["image_id"] for item in filled]


def test_whole_images_with_and_without_labels(root: Path) -> None:
    register_dota_images("t_images", root / "images", root / "labelTxt", CLASSES)
    register_dota_images("t_test", root / "images", None, CLASSES)
    item = DatasetCatalog.get("t_images")[0]
    assert (item["image_id"], item["source_image_id"]) == ("P0001", "P0001")
    assert (item["height"], item["width"]) == (64, 112)
    assert (item["patch_origin_xy"], item["patch_scale"]) == ((0.0, 0.0), 1.0)
    assert [a["category_id"] for a in item["annotations"]] == [0, 1]
    assert "annotations" not in DatasetCatalog.get("t_test")[0]
    assert MetadataCatalog.get("t_test").label_dir is None


def test_register_dota_is_lazy_repeatable_and_reads_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    names = register_dota(name_prefix="t_dota")
    assert {f"t_dota_{part}" for part in ("train", "val", "trainval", "test")} <= set(names)
    assert register_dota(name_prefix="t_dota") == names
    val = MetadataCatalog.get("t_dota_val")
    assert val.label_dir == str(tmp_path / "nowhere" / "DOTA" / "val" / "labelTxt")
    assert val.thing_classes == list(DOTA_V1_CLASSES)
    assert MetadataCatalog.get("t_dota_test").label_dir is None
    with pytest.raises(ValueError, match="'t_dota_train': already registered for"):
        register_dota(tmp_path / "elsewhere", name_prefix="t_dota")
    register_dota_images("t_mine", tmp_path, None, CLASSES)
    with pytest.raises(ValueError, match="'t_mine': already registered"):
        register_dota_split("t_mine", tmp_path, CLASSES)


def test_a_removed_name_can_be_registered_anew(patch_dir: Path) -> None:
    register_dota_split("t_patches", patch_dir, CLASSES)
    DatasetCatalog.remove("t_patches")
    register_dota_split("t_patches", patch_dir, ("plane", "ship"))
    assert MetadataCatalog.get("t_patches").thing_classes == ["plane", "ship"]


def test_missing_root_says_what_is_expected_and_how_to_make_it(tmp_path: Path) -> None:
    register_dota(tmp_path / "nowhere", name_prefix="t_dota")
    for name in ("t_dota_train", "t_dota_test"):
        with pytest.raises(FileNotFoundError) as caught:
            DatasetCatalog.get(name)
        text = str(caught.value)
        for part in ("nowhere", "images/", "labelTxt/", "manifest.jsonl", "tcm-d2 split"):
            assert part in text
        assert "DETECTRON2_DATASETS" in text
    with pytest.raises(FileNotFoundError, match=r"image folder .*nowhere"):
        DatasetCatalog.get("t_dota_val_images")


def test_incomplete_patch_folders_are_refused(patch_dir: Path) -> None:
    (patch_dir / "labelTxt" / "P0002__64__0___0.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"P0002__64__0___0\.txt: label file not found"):
        load_dota_split(patch_dir, CLASSES)
    (patch_dir / "images" / "P0002__64__0___0.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 27 patches of the manifest are missing"):
        load_dota_split(patch_dir, CLASSES)
    (patch_dir / "manifest.jsonl").write_text("")
    with pytest.raises(ValueError, match="empty data set"):
        load_dota_split(patch_dir, CLASSES)
    (patch_dir / "manifest.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"no manifest\.jsonl.*patch_names"):
        load_dota_split(patch_dir, CLASSES)


def test_unknown_classes_stop_the_loading_or_are_counted(
    patch_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="unknown class 'plane'"):
        load_dota_split(patch_dir, ["ship"])
    with caplog.at_level(logging.WARNING):
        dicts = load_dota_split(patch_dir, ["ship"], on_error="skip")
    assert all(a["category_id"] == 0 for item in dicts for a in item["annotations"])
    messages = [r.message for r in caplog.records if "left out or repaired" in r.message]
    assert len(messages) == 1  # once per data set
    assert "x unknown class; first: " in messages[0]


def test_whole_images_without_partner_are_refused_or_left_out(
    root: Path, write_dota: WriteDota, caplog: pytest.LogCaptureFixture
) -> None:
    write_dota("P0003", (20, 20), None)
    with pytest.raises(ValueError, match=r"1 x image without label \(P0003\)"):
        load_dota_images(root / "images", root / "labelTxt", CLASSES)
    with caplog.at_level(logging.WARNING):
        dicts = load_dota_images(root / "images", root / "labelTxt", CLASSES, on_missing="skip")
    assert [item["image_id"] for item in dicts] == ["P0001", "P0002"]
    assert "P0003" in caplog.text


def test_empty_and_strange_image_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got an empty data set"):
        load_dota_images(tmp_path, None, CLASSES)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.png: expected an image file"):
        load_dota_images(tmp_path, None, CLASSES)


@pytest.mark.parametrize(
    ("patch_names", "origin", "scale"), [("window", (12.0, 6.0), 0.5), ("rate", (24.0, 12.0), 0.5)]
)
def test_patches_of_other_tools_are_read_by_name(
    write_dota: WriteDota, patch_names: str, origin: tuple[float, float], scale: float
) -> None:
    middle = {"window": "128", "rate": "0.5"}[patch_names]
    root = write_dota(f"P1__{middle}__24___12", (64, 64), [rectangle(2, 3, 12, 8, "ship")])
    item = load_dota_split(root, CLASSES, patch_names=patch_names)[0]  # type: ignore[arg-type]
    assert (item["source_image_id"], item["patch_origin_xy"]) == ("P1", origin)
    assert item["patch_scale"] == scale
    write_dota("P2", (64, 64), [])
    with pytest.raises(ValueError, match="expected a patch name like"):
        load_dota_split(root, CLASSES, patch_names=patch_names)  # type: ignore[arg-type]


@pytest.mark.realdata
def test_real_half_scale_patches_lie_where_their_names_say(
    realdata_dir: Path, tmp_path: Path
) -> None:
    """Objects of patches split by DOTA's own tool fall on objects of the whole image."""
    source = realdata_dir / "dota" / "halfscale_patches"
    (tmp_path / "images").mkdir()
    (tmp_path / "labelTxt").mkdir()
    for path in (source / "images").glob("P2709*.png"):
        (tmp_path / "images" / path.name).symlink_to(path)
        label = source / "labelTxt" / f"{path.stem}.txt"
        (tmp_path / "labelTxt" / label.name).symlink_to(label)
    dicts = load_dota_split(tmp_path, DOTA_V1_CLASSES, patch_names="rate", on_error="skip")
    assert len(dicts) == 4
    whole = read_label(realdata_dir / "dota" / "dotadevkit" / "labelTxt" / "P2709.txt").objects
    centers = np.array([obj.quad for obj in whole]).reshape(-1, 4, 2).mean(axis=1)
    num_near = num_all = 0
    for item in dicts:
        for annotation in item["annotations"]:
            quad = np.array(annotation["quad"])
            if quad.min() <= 1 or quad.max() >= 1023:  # cut at the border by that tool
                continue
            center = ((quad + item["patch_origin_xy"]) / item["patch_scale"]).mean(axis=0)
            num_all += 1
            num_near += np.linalg.norm(centers - center, axis=1).min() < 3
    assert num_all > 300
    assert num_near == num_all
