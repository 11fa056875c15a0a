"""Data sets other than DOTA, read from the files as they are downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.split import SplitConfig, SplitSource, split_dataset
from tcm_d2.data.public_sets import (
    DIOR_R_CLASSES,
    register_dior_r,
    register_dota_style,
    register_hrsc2016,
    register_icdar2015,
    register_public_sets,
    register_ucas_aod,
)


@pytest.fixture(autouse=True)
def _clean_catalogs() -> Iterator[None]:
    before = set(DatasetCatalog.list())
    for name in before:
        if not name.startswith(("coco", "keypoints", "lvis", "city", "voc", "ade20k")):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _image(path: Path, size_hw: tuple[int, int] = (60, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((*size_hw, 3), dtype=np.uint8))


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


DIOR_XML = """<annotation><object><type>robndbox</type><name>Expressway-Service-area</name>
<difficult>1</difficult><robndbox><x_left_top>1</x_left_top><y_left_top>2</y_left_top>
<x_right_top>9</x_right_top><y_right_top>2</y_right_top><x_right_bottom>9</x_right_bottom>
<y_right_bottom>7</y_right_bottom><x_left_bottom>1</x_left_bottom><y_left_bottom>7</y_left_bottom>
</robndbox></object></annotation>"""
HRSC_XML = """<HRSC_Image><HRSC_Objects><HRSC_Object><Class_ID>100000013</Class_ID>
<difficult>0</difficult><mbox_cx>30</mbox_cx><mbox_cy>20</mbox_cy><mbox_w>20</mbox_w>
<mbox_h>10</mbox_h><mbox_ang>1.5707963</mbox_ang></HRSC_Object></HRSC_Objects></HRSC_Image>"""


def test_dior_r(tmp_path: Path) -> None:
    _image(tmp_path / "JPEGImages-trainval" / "00001.jpg")
    _image(tmp_path / "JPEGImages-test" / "00002.jpg")
    for image_id, part in (("00001", "train"), ("00002", "test")):
        _text(tmp_path / "Annotations" / "Oriented Bounding Boxes" / f"{image_id}.xml", DIOR_XML)
        _text(tmp_path / "ImageSets" / "Main" / f"{part}.txt", f"{image_id}\n")
    names = register_dior_r(tmp_path)
    assert names == [f"dior_r_{part}" for part in ("train", "val", "trainval", "test")]
    assert register_dior_r(tmp_path) == names
    (item,) = DatasetCatalog.get("dior_r_test")
    assert (item["image_id"], item["height"], item["width"]) == ("00002", 60, 80)
    quad = [[1, 2], [9, 2], [9, 7], [1, 7]]
    index = DIOR_R_CLASSES.index("expressway-service-area")
    assert item["annotations"][0] == {
        **{"quad": quad, "category_id": index, "difficult": 1},
        **{"bbox": [5.0, 4.5, 8.0, 5.0, 0.0], "bbox_mode": 4},
    }
    metadata = MetadataCatalog.get("dior_r_test")
    assert len(metadata.thing_classes) == 20 and metadata.labels_in_dicts
    with pytest.raises(FileNotFoundError, match=r"val\.txt: expected a list of image ids"):
        DatasetCatalog.get("dior_r_val")
    with pytest.raises(ValueError, match="'dior_r_train': already registered"):
        register_dior_r(tmp_path / "elsewhere")


def test_hrsc2016(tmp_path: Path) -> None:
    _image(tmp_path / "FullDataSet" / "AllImages" / "100000001.bmp")
    _text(tmp_path / "FullDataSet" / "Annotations" / "100000001.xml", HRSC_XML)
    _text(tmp_path / "ImageSets" / "test.txt", "100000001\n")
    register_hrsc2016(tmp_path)
    (item,) = DatasetCatalog.get("hrsc2016_test")
    quad = np.array(item["annotations"][0]["quad"])
    assert (quad.min(axis=0).round(4).tolist(), quad.max(axis=0).round(4).tolist()) == (
        [25, 10],
        [35, 30],
    )
    (tmp_path / "FullDataSet" / "Annotations" / "100000001.xml").unlink()
    with pytest.raises(FileNotFoundError, match="annotations of image 100000001 not found"):
        DatasetCatalog.get("hrsc2016_test")


def test_ucas_aod(tmp_path: Path) -> None:
    for class_name in ("CAR", "PLANE"):
        _image(tmp_path / class_name / "P0001.png")
        numbers = "\t".join(f"{v:e}" for v in (1, 2, 9, 2, 9, 7, 1, 7, 0.5, 1, 2, 8, 5))
        _text(tmp_path / class_name / "P0001.txt", f"{numbers}\n")
    _text(tmp_path / "ImageSets" / "test.txt", "PLANE_P0001\n")
    _text(tmp_path / "ImageSets" / "val.txt", "P0001\n")
    register_ucas_aod(tmp_path)
    everything = DatasetCatalog.get("ucas_aod")
    assert [item["image_id"] for item in everything] == ["CAR_P0001", "PLANE_P0001"]
    assert [item["annotations"][0]["category_id"] for item in everything] == [0, 1]
    assert everything[0]["annotations"][0]["quad"] == [[1, 2], [9, 2], [9, 7], [1, 7]]
    assert [item["image_id"] for item in DatasetCatalog.get("ucas_aod_test")] == ["PLANE_P0001"]
    with pytest.raises(ValueError, match=r"val\.txt: expected ids like CAR_P0001, got 'P0001'"):
        DatasetCatalog.get("ucas_aod_val")


def test_icdar2015(tmp_path: Path) -> None:
    _image(tmp_path / "ch4_training_images" / "img_1.jpg")
    label = tmp_path / "ch4_training_localization_transcription_gt" / "gt_img_1.txt"
    _text(label, "\ufeff1,2,9,2,9,7,1,7,a,b\r\n1,2,9,2,9,7,1,7,###\r\n5,5,5,5,5,5,5,5,c\r\n")
    register_icdar2015(tmp_path)
    with pytest.raises(ValueError, match=r"gt_img_1\.txt:3: expected an area"):
        DatasetCatalog.get("icdar2015_train")
    DatasetCatalog.remove("icdar2015_train")
    DatasetCatalog.remove("icdar2015_test")
    register_icdar2015(tmp_path, on_error="skip")
    (item,) = DatasetCatalog.get("icdar2015_train")
    assert [a["difficult"] for a in item["annotations"]] == [0, 1]
    with pytest.raises(FileNotFoundError, match="ch4_test_images: expected a folder"):
        DatasetCatalog.get("icdar2015_test")


def test_anything_in_the_format_of_dota(tmp_path: Path) -> None:
    for image_id in ("a", "b"):
        _image(tmp_path / "train" / "images" / f"{image_id}.png")
        _text(tmp_path / "train" / "labelTxt" / f"{image_id}.txt", "1 2 9 2 9 7 1 7 kayak 1\n")
    _image(tmp_path / "test" / "images" / "c.png")
    names = register_dota_style("boats", tmp_path, ["canoe", "kayak"])
    assert names == ["boats", "boats_train", "boats_val", "boats_trainval", "boats_test"]
    items = DatasetCatalog.get("boats_train")
    assert [item["annotations"][0]["category_id"] for item in items] == [1, 1]
    assert "annotations" not in DatasetCatalog.get("boats_test")[0]
    with pytest.raises(FileNotFoundError, match="images: expected a folder"):
        DatasetCatalog.get("boats")
    (tmp_path / "train" / "labelTxt" / "b.txt").unlink()
    with pytest.raises(ValueError, match=r"1 images without label \(b\)"):
        DatasetCatalog.get("boats_train")
    split_dataset(
        [SplitSource(tmp_path / "test" / "images", None)],
        tmp_path / "val",
        config=SplitConfig(patch_size_px=32, gap_px=8),
        classes=None,
        num_workers=1,
        show_progress=False,
    )
    patches = DatasetCatalog.get("boats_val")
    assert len(patches) > 1 and {item["source_image_id"] for item in patches} == {"c"}


def test_all_sets_are_registered_without_touching_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    names = register_public_sets()
    assert names == register_public_sets()
    wanted = {"dota_v1_train", "dota_v15_val", "dota_v2_trainval", "dior_r_test", "hrsc2016_test"}
    assert wanted | {"ucas_aod", "icdar2015_train"} <= set(names)
    assert len(MetadataCatalog.get("dota_v15_train").thing_classes) == 16
    assert len(MetadataCatalog.get("dota_v2_train").thing_classes) == 18
    with pytest.raises(FileNotFoundError, match="nowhere"):
        DatasetCatalog.get("hrsc2016_train")


@pytest.mark.realdata
def test_real_samples(realdata_dir: Path, tmp_path: Path) -> None:
    dior, icdar = tmp_path / "dior", tmp_path / "icdar"
    shutil.copytree(realdata_dir / "dior_r" / "images", dior / "JPEGImages-trainval")
    boxes = dior / "Annotations" / "Oriented Bounding Boxes"
    shutil.copytree(realdata_dir / "dior_r" / "xml_obb", boxes)
    _text(dior / "ImageSets" / "Main" / "train.txt", "00001\n")
    register_dior_r(dior)
    (item,) = DatasetCatalog.get("dior_r_train")
    assert item["annotations"][0]["category_id"] == DIOR_R_CLASSES.index("golffield")
    shutil.copytree(realdata_dir / "icdar2015" / "images", icdar / "ch4_test_images")
    shutil.copytree(realdata_dir / "icdar2015" / "gt", icdar / "Challenge4_Test_Task1_GT")
    register_icdar2015(icdar)
    (item,) = DatasetCatalog.get("icdar2015_test")
    assert len(item["annotations"]) == 16
    assert sum(a["difficult"] for a in item["annotations"]) == 3
    hrsc = tmp_path / "hrsc"
    _image(hrsc / "FullDataSet" / "AllImages" / "100000006.bmp", (816, 1172))
    shutil.copytree(realdata_dir / "hrsc2016" / "xml", hrsc / "FullDataSet" / "Annotations")
    _text(hrsc / "ImageSets" / "test.txt", "100000006\n")
    register_hrsc2016(hrsc)
    (item,) = DatasetCatalog.get("hrsc2016_test")
    assert len(item["annotations"]) == 1
    register_dota_style("ucas_sample", realdata_dir / "ucas_aod", ["car", "plane"])
    assert len(DatasetCatalog.get("ucas_sample")) == 8
    dota = realdata_dir / "dota" / "dota8"
    register_dota_style("dota8", dota, DOTA_V1_CLASSES)
    assert sum(len(item["annotations"]) for item in DatasetCatalog.get("dota8")) == 21
