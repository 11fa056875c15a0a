"""Captions are true of their pictures, and what they are compared with is told right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tcm_d2.synthetic.captioned_crops import (
    CELL_PX,
    CaptionedScene,
    CropSampler,
    cell_coverage,
    make_scenes,
    read_scenes,
    render_scene,
)
from tcm_d2.synthetic.captions import (
    caption_words,
    color_word,
    describe_picture,
    describe_thing,
    fits,
    plural,
    words_of,
)
from tcm_d2.synthetic.things import Thing


def square(x: float, y: float, side: float = 20.0) -> np.ndarray:
    corners = [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]
    return np.array(corners, np.float32)


CAR = Thing("car", "red", square(10, 10), "in a parking lot", "small-vehicle")
BUS = Thing("school bus", "yellow", square(60, 60, 40), "on a street", "large-vehicle")
SHIP = Thing("ship", "white", square(100, 20), "in a marina", "ship")
TURBINE = Thing("wind turbine", "", square(30, 100), "", "")


@pytest.fixture(scope="module")
def sampler() -> CropSampler:
    return CropSampler([render_scene(5, 0, index) for index in (0, 1, 4)])


def test_words_are_name_noun_class_and_other_words_of_the_class() -> None:
    assert words_of(BUS) == ("school bus", "bus", "large vehicle")
    assert words_of(SHIP) == ("ship", "boat", "vessel")
    assert words_of(TURBINE) == ("wind turbine", "turbine")


def test_what_a_caption_says_is_true_and_in_its_text() -> None:
    things = [CAR, CAR, BUS, SHIP, TURBINE]
    for seed in range(300):
        rng = np.random.default_rng(seed)
        caption = describe_picture(things, rng)
        for mention in caption.mentions:
            found = sum(fits(mention, thing) for thing in things)
            assert found == mention.count if mention.count else found > 0, caption
            assert mention.word.split()[0][:-1] in caption.text and mention.color in caption.text
            assert mention.place in caption.text
        assert len(caption.text.split()) <= 11
        one = describe_thing(BUS, rng)
        assert [fits(one.mentions[0], thing) for thing in things] == [0, 0, 1, 0, 0]
        words = caption_words(things)
        assert {*caption.text.split(), *one.text.split()} <= words


def test_plurals() -> None:
    nouns = ["car", "bus", "ferry", "aircraft", "bridge", "roundabout", "bench"]
    expected = ["cars", "buses", "ferries", "aircraft", "bridges", "roundabouts", "benches"]
    assert [plural(noun) for noun in nouns] == expected


def test_colors_are_read_inside_of_a_thing() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    image[10:30, 10:30] = (180, 40, 40)
    assert color_word(image, square(10, 10)) == "red"
    assert color_word(image, square(35, 35)) == "black"
    assert color_word(image, square(200, 200)) == ""


def test_coverage_of_cells() -> None:
    covered = cell_coverage(square(CELL_PX, 0, CELL_PX), 2 * CELL_PX)
    assert covered.tolist() == [[0.0, 1.0], [0.0, 0.0]]
    tiny = cell_coverage(square(5, 37, 1.0), 2 * CELL_PX)
    assert (tiny > 0).tolist() == [[False, False], [True, False]]


def test_batches_pair_every_text_with_something(sampler: CropSampler) -> None:
    first, again = (
        sampler.draw(np.random.default_rng(7), num_crops=8, size_px=96) for _ in range(2)
    )
    assert first.images.shape == (8, 96, 96, 3) and first.images.dtype == np.uint8
    assert np.array_equal(first.images, again.images) and first.captions == again.captions
    assert first.caption_fits.diagonal().all() and not first.caption_fits.all()
    assert first.shows.shape == first.touches.shape == (len(first.phrases), 8 * 9)
    assert first.shows.any(1).all() and (first.touches | ~first.shows).all()


def test_quads_turn_and_mirror_with_their_crop() -> None:
    image = np.zeros((128, 128, 3), np.uint8)
    thing = Thing(
        "ship", "", np.array([[40, 50], [80, 50], [80, 62], [40, 62]], np.float32), "", ""
    )
    image[50:62, 40:80] = 255
    sampler = CropSampler([CaptionedScene(image, [thing], False)])
    for seed in range(16):
        crop, (quad,) = sampler._crop(np.random.default_rng(seed), 0, 0, 96)
        rows, columns = np.nonzero(crop[..., 0] > 150)
        inside = (quad.min(0) >= 2).all() and (quad.max(0) <= 94).all()
        if inside:
            np.testing.assert_allclose([columns.min(), rows.min()], quad.min(0), atol=2)
            np.testing.assert_allclose([columns.max() + 1, rows.max() + 1], quad.max(0), atol=2)


def test_scenes_are_kept_and_read_again(tmp_path: Path) -> None:
    counts = list(make_scenes(tmp_path, num_scenes=2, seed=5, split_index=0, num_workers=1))
    assert counts == [0, 1, 2]
    scenes = read_scenes(tmp_path, 2)
    expected = render_scene(5, 0, 1)
    assert np.array_equal(scenes[1].image, expected.image)
    assert [t.name for t in scenes[1].things] == [t.name for t in expected.things]
    assert list(make_scenes(tmp_path, num_scenes=2, seed=5, split_index=0, num_workers=1)) == [2]
