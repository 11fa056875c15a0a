"""The report in a real browser: it loads clean, and its controls do what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tcm_d2.report.gallery import find_image_files, pack_pictures
from tcm_d2.report.page import build_page
from tests.report.browser import open_browser, show
from tests.report.scene import IMAGE_IDS, analyze_scene, write_scene


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scene = write_scene(tmp_path_factory.mktemp("scene"))
    files = find_image_files(scene / "images", IMAGE_IDS)
    maps = np.zeros((3, 4, 5))
    maps[1, 2, 3] = 1.0
    pictures = pack_pictures(
        [(i, files[image_id]) for i, image_id in enumerate(IMAGE_IDS)],
        max_bytes=10**6,
        score_maps={i: maps for i in range(3)},
    )
    path = scene / "report.html"
    path.write_text(build_page(analyze_scene(scene), pictures, title="A report"))
    return path


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def shown(driver: Any, page: Path) -> Any:
    show(driver, page)
    return driver


def settle(driver: Any) -> None:
    """Wait until what was asked for is drawn."""
    driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));"
    )


def press(driver: Any, *keys: str) -> None:
    driver.switch_to.active_element.send_keys(*keys)
    settle(driver)


def focus(driver: Any, selector: str) -> None:
    driver.execute_script("document.querySelector(arguments[0]).focus()", selector)


def count(driver: Any, kind: str, inside: str = "#cards") -> int:
    """Return how many boxes of a kind are drawn."""
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])]"
        ".reduce((n, path) => n + path.getAttribute('d').split('M').length - 1, 0)",
        f"{inside} .overlay .{kind}",
    )


def names_in_table(driver: Any) -> list[str]:
    cells = "[...document.querySelectorAll('#class-table tbody th')]"
    return driver.execute_script(f"return {cells}.map(c => c.innerText.trim())")


def test_loads_without_a_complaint(shown: Any) -> None:
    assert shown.get_log("browser") == []
    loaded = (
        "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))"
    )
    assert shown.execute_script(loaded) == []
    assert shown.title == "A report"
    broken = "return [...document.images].filter(i => i.complete && !i.naturalWidth).length"
    assert shown.execute_script(broken) == 0


def test_slider_changes_boxes_counts_and_figures(shown: Any) -> None:
    assert [count(shown, kind) for kind in ("hit", "missed", "false")] == [4, 1, 3]
    focus(shown, "#threshold")
    from selenium.webdriver.common.keys import Keys

    press(shown, *[Keys.ARROW_RIGHT] * 10)
    assert shown.find_element("id", "threshold-value").text == "0.40"
    assert [count(shown, kind) for kind in ("hit", "missed", "false")] == [3, 2, 3]
    text = shown.find_element("id", "counts").text
    assert "3 hits" in text and "2 missed" in text and "3 false" in text
    row = shown.find_element("css selector", "#class-table tr[data-index='0']").text
    assert "50.0" in row and "66.7" in row  # plane: 2 hits, 2 false, 1 missed
    matrix = shown.find_element("id", "confusion-table").text
    press(shown, Keys.END)
    assert [count(shown, kind) for kind in ("hit", "missed", "false")] == [0, 5, 0]
    assert shown.find_element("id", "confusion-table").text != matrix
    press(shown, Keys.HOME)
    assert shown.find_element("id", "threshold-value").text == "0.05"
    assert count(shown, "false") == 4


def test_table_sorts_both_ways(shown: Any) -> None:
    assert names_in_table(shown) == ["plane", "ship", "harbor"]
    head = "#class-table thead th[data-key='%s'] button"
    shown.find_element("css selector", head % "ap").click()
    assert names_in_table(shown) == ["plane", "ship", "harbor"]
    shown.find_element("css selector", head % "ap").click()
    # A class without objects has no AP and stays last.
    assert names_in_table(shown) == ["ship", "plane", "harbor"]
    shown.find_element("css selector", head % "name").click()
    assert names_in_table(shown) == ["harbor", "plane", "ship"]
    state = "return [...document.querySelectorAll('#class-table thead th')].map(c => c.ariaSort)"
    assert shown.execute_script(state)[:2] == ["ascending", "none"]


def test_layers_and_classes(shown: Any) -> None:
    assert count(shown, "gt") == 0
    shown.find_element("css selector", "input[value=gt]").click()
    settle(shown)
    assert count(shown, "gt") == 6
    shown.find_element("css selector", "input[value=false]").click()
    settle(shown)
    assert count(shown, "false") == 0
    shown.find_element("css selector", "#class-filter option[value='1']").click()
    settle(shown)
    assert [count(shown, kind) for kind in ("gt", "hit", "missed")] == [2, 1, 1]


def test_score_maps_appear_and_change_with_the_class(shown: Any) -> None:
    assert not shown.find_elements("css selector", "#cards canvas")
    shown.find_element("css selector", "#map-class option[value='1']").click()
    settle(shown)
    assert len(shown.find_elements("css selector", "#cards canvas")) == 3
    sums = (
        "return [...document.querySelectorAll('#cards canvas')].map(c => c.getContext('2d')"
        ".getImageData(3, 2, 1, 1).data[0])"
    )
    assert min(shown.execute_script(sums)) > 200
    shown.find_element("css selector", "#map-class option[value='0']").click()
    settle(shown)
    assert max(shown.execute_script(sums)) < 50


def test_viewer_by_keyboard(shown: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    focus(shown, ".card[data-image='2']")
    press(shown, Keys.ENTER)
    viewer = shown.find_element("id", "viewer")
    assert viewer.is_displayed()
    title = shown.find_element("id", "viewer-title")
    assert title.text == "P3"
    assert count(shown, "false", "#stage") == 2 and count(shown, "missed", "#stage") == 1
    errors = [e.text for e in shown.find_elements("css selector", "#errors button")]
    assert errors == ["false: plane 0.50", "false: ship 0.45", "missed: ship"]
    press(shown, "4")
    assert count(shown, "false", "#stage") == 0
    press(shown, "]")
    assert shown.find_element("id", "threshold-value").text == "0.35"
    width = "return document.querySelector('#stage .picture').clientWidth"
    before = shown.execute_script(width)
    press(shown, "+")
    assert shown.execute_script(width) > 1.4 * before
    press(shown, Keys.ARROW_RIGHT)
    assert title.text == "P1"
    shown.find_element("css selector", "#errors button").click()
    settle(shown)
    assert count(shown, "chosen", "#stage") == 1
    press(shown, Keys.ESCAPE)
    assert not viewer.is_displayed()
    # The controls are back where they were.
    assert shown.find_element("css selector", "#controls-home #threshold").is_displayed()
    assert shown.get_log("browser") == []


def test_arrow_keys_move_between_cards(shown: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    focus(shown, ".card")
    first = shown.switch_to.active_element.get_attribute("data-image")
    press(shown, Keys.ARROW_RIGHT)
    assert shown.switch_to.active_element.get_attribute("data-image") != first
    press(shown, Keys.ARROW_LEFT)
    assert shown.switch_to.active_element.get_attribute("data-image") == first


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_sticks_out_sideways(driver: Any, page: Path, width: int) -> None:
    show(driver, page, width=width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    driver.execute_script("openViewer(0)")
    settle(driver)
    stage = driver.execute_script(
        "const r = stage.getBoundingClientRect(); return [r.width, r.height]"
    )
    assert stage[0] >= min(width, 300) and stage[1] > 150
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_dark_and_light(driver: Any, page: Path) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    show(driver, page, prefers_color_scheme="light")
    light = driver.execute_script(ground)
    show(driver, page, prefers_color_scheme="dark")
    assert driver.execute_script(ground) != light
    driver.find_element("id", "theme").click()
    assert driver.execute_script(ground) == light


CONTRAST = """
const luminance = (text) => {
  const rgb = text.match(/[\\d.]+/g).slice(0, 3).map(Number).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
};
const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
const style = getComputedStyle(document.documentElement);
const probe = document.body.appendChild(document.createElement("span"));
const value = (name) => { probe.style.color = style.getPropertyValue(name);
  return luminance(getComputedStyle(probe).color); };
return ["--text", "--muted", "--accent"].flatMap((ink) =>
  ["--bg", "--panel"].map((ground) => ratio(value(ink), value(ground))));
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(driver: Any, page: Path, scheme: str) -> None:
    """WCAG 2.1 AA asks for a contrast of 4.5."""
    show(driver, page, prefers_color_scheme=scheme)
    assert min(driver.execute_script(CONTRAST)) >= 4.5
