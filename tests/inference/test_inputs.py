"""What a detector is called with: folders, patterns, tensors, PIL's images, generators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tcm_d2 import Detections, Detector
from tests.inference.small_run import ALL_SCORES, noise_image, write_run

IMAGE = noise_image(64, 64)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    run_dir = write_run(tmp_path_factory.mktemp("run") / "out")
    return Detector.from_pretrained(run_dir, device="cpu", score_threshold=ALL_SCORES)


@pytest.fixture(scope="module")
def expected(detector: Detector) -> Detections:
    return detector(IMAGE)


def _same(found: Detections, other: Detections) -> bool:
    return np.array_equal(found.boxes, other.boxes) and np.array_equal(found.scores, other.scores)


def test_tensors_and_pil_images_are_arrays(detector: Detector, expected: Detections) -> None:
    tensor = torch.from_numpy(IMAGE).permute(2, 0, 1)
    pil = Image.fromarray(IMAGE)
    grey = Image.fromarray(IMAGE[..., 0])
    with_alpha = pil.convert("RGBA")
    assert all(_same(expected, detector(image)) for image in (tensor, pil, with_alpha))
    assert _same(detector(IMAGE[..., 0]), detector(grey))
    assert _same(detector(grey), detector(tensor[:1])) and _same(
        detector(grey), detector(tensor[0])
    )
    # PIL says the order of its channels itself; a tensor is BGR where that is said.
    assert _same(expected, detector(pil, channel_order="BGR"))
    assert _same(expected, detector(tensor.flip(0), channel_order="BGR"))


def test_a_palette_is_looked_up(detector: Detector) -> None:
    palette = Image.fromarray(IMAGE).quantize(8)
    assert _same(detector(palette), detector(np.asarray(palette.convert("RGB"))))


def test_several_pictures(tmp_path: Path, detector: Detector, expected: Detections) -> None:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), IMAGE[..., ::-1])
    (tmp_path / "notes.txt").write_text("no picture")
    for given in (tmp_path, str(tmp_path / "*.png"), [tmp_path / "a.png", tmp_path / "b.png"]):
        found = detector(given)
        assert isinstance(found, list) and [f.image_id for f in found] == ["a", "b"]
        assert all(_same(expected, f) for f in found)
    batch = torch.from_numpy(np.stack([IMAGE, IMAGE])).permute(0, 3, 1, 2)
    assert [_same(expected, f) for f in detector(batch)] == [True, True]
    # A folder in a list gives one result for each of its pictures.
    assert len(detector([tmp_path, IMAGE])) == 3
    # A file may be called as a pattern is.
    (tmp_path / "a.png").rename(tmp_path / "[ab].png")
    assert isinstance(detector(tmp_path / "[ab].png"), Detections)


def test_a_generator_is_asked_one_picture_at_a_time(
    detector: Detector, expected: Detections
) -> None:
    asked: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for number in range(3):
            asked.append(number)
            yield IMAGE

    found = detector(frames())
    assert asked == []
    assert _same(expected, next(found)) and asked == [0]
    assert len(list(found)) == 2


def test_a_pil_image_knows_its_file(tmp_path: Path, detector: Detector) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "harbour.png")
    with Image.open(tmp_path / "harbour.png") as image:
        found = detector(image)
    assert found.image_id == "harbour" and found.draw().shape == IMAGE.shape


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(IMAGE[..., 0].astype(np.int32)), r"8 bits a channel, got .* mode 'I'"),
        (torch.zeros(3, 64, 64), "expected uint8, got float32"),
        (torch.zeros(64, 64, 3, dtype=torch.uint8), r"a tensor \(3, H, W\).*come first in tensors"),
        (7, "expected a path, a uint8 array"),
    ],
)
def test_what_cannot_be_taken_is_said(detector: Detector, image: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        detector(image)  # type: ignore[call-overload]


def test_nothing_there_is_said(tmp_path: Path, detector: Detector) -> None:
    with pytest.raises(FileNotFoundError, match="a folder without images"):
        detector(tmp_path)
    with pytest.raises(FileNotFoundError, match="the pattern matches no image"):
        detector(tmp_path / "*.tif")
