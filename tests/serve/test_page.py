"""The page in a real browser: a picture is sent, looked at, filtered and taken along."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tcm_d2.inference.results import Detections
from tcm_d2.serve.pictures import LOWEST_SCORE
from tests.report.browser import open_browser
from tests.serve.running import EXAMPLE, Server, serve


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


def _wait(driver: Any, condition: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 30).until(lambda d: d.execute_script(f"return {condition}"))


def _open(driver: Any, server: Server, *, width: int = 1200, height: int = 800) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get_log("browser")
    driver.get(server.url)
    _wait(driver, "document.documentElement.dataset.ready === 'yes'")


@pytest.fixture
def shown(driver: Any, server: Server) -> Any:
    _open(driver, server)
    send(driver, EXAMPLE)
    return driver


def send(driver: Any, path: Path) -> None:
    driver.find_element("id", "file").send_keys(str(path))
    _wait(driver, "document.documentElement.dataset.state === 'done'")


def count(driver: Any) -> int:
    return len(driver.find_elements("css selector", "#boxes polygon"))


def status(driver: Any) -> str:
    return driver.find_element("id", "status").text


def set_threshold(driver: Any, value: float) -> None:
    driver.execute_script(
        "const t = document.getElementById('threshold'); t.value = arguments[0];"
        "t.dispatchEvent(new Event('input'))",
        value,
    )


def found_by_page(server: Server) -> Detections:
    """Return what the page shows at first: it finds all from a low score on, and hides some.

    At a seam that is not what a detector with its own threshold finds: there a box that a window
    cuts gives way to a whole one of a lower score.
    """
    detector = server.service.detector
    return detector(EXAMPLE, score_threshold=LOWEST_SCORE).above(detector.config.score_threshold)


def test_it_loads_from_this_server_alone_without_a_complaint(shown: Any, server: Server) -> None:
    assert shown.get_log("browser") == []
    names = shown.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert len(names) >= 4 and all(name.startswith((server.url, "data:")) for name in names)


def test_boxes_are_drawn_where_they_were_found(shown: Any, server: Server) -> None:
    expected = found_by_page(server)
    assert status(shown) == "example.jpg: 512 x 512 px"
    assert count(shown) == len(expected) > 5
    points = shown.find_element("css selector", "#boxes polygon").get_attribute("points")
    numbers = [float(word) for word in re.split("[ ,]", points)]
    assert numbers == pytest.approx(expected.quads[0].flatten().tolist(), abs=0.006)
    # The picture lies exactly under them.
    places = shown.execute_script(
        "return ['picture', 'boxes'].map(i => {const r = document.getElementById(i)"
        ".getBoundingClientRect(); return [r.left, r.top, r.width, r.height]})"
    )
    assert places[0] == pytest.approx(places[1], abs=0.5)


def test_threshold_and_classes_filter_boxes_and_downloads(shown: Any, server: Server) -> None:
    everything = count(shown)
    set_threshold(shown, 0.6)
    some = count(shown)
    assert 0 < some < everything
    set_threshold(shown, 0.05)
    assert count(shown) > everything
    set_threshold(shown, 0.3)
    shown.find_element("id", "none").click()
    assert count(shown) == 0
    found = found_by_page(server)
    index = int(found.class_ids[0])
    shown.find_elements("css selector", "#classes input")[index].click()
    mine = int((found.class_ids == index).sum())
    assert count(shown) == mine
    address = shown.find_element("id", "dota").get_attribute("href")
    rows = server.ask("GET", address.removeprefix(server.url[:-1])).body.decode().splitlines()
    assert len(rows) == mine
    shown.find_element("id", "all").click()
    assert count(shown) == everything


def test_zooming_and_moving(shown: Any) -> None:
    def width() -> float:
        return shown.execute_script(
            "return document.getElementById('picture').getBoundingClientRect().width"
        )

    fitted = width()
    shown.find_element("id", "in").click()
    assert width() == pytest.approx(1.25 * fitted)
    shown.execute_script(
        "document.getElementById('stage').dispatchEvent("
        "new WheelEvent('wheel', {deltaY: -1, clientX: 100, clientY: 300, cancelable: true}))"
    )
    assert width() == pytest.approx(1.25**2 * fitted)
    shown.execute_script("document.getElementById('stage').focus()")
    shown.switch_to.active_element.send_keys("0")
    assert width() == pytest.approx(fitted)


def test_what_cannot_be_used_is_said_on_the_page(
    driver: Any, server: Server, tmp_path: Path
) -> None:
    _open(driver, server)
    (tmp_path / "notes.txt").write_text("no picture")
    send(driver, tmp_path / "notes.txt")
    assert status(driver).startswith("notes.txt: ") and count(driver) == 0
    (tmp_path / "large.jpg").write_bytes(b"x" * 2_100_000)
    send_without_waiting = driver.find_element("id", "file")
    send_without_waiting.send_keys(str(tmp_path / "large.jpg"))
    _wait(driver, "document.getElementById('status').textContent.includes('larger than')")


def test_a_dropped_file_is_sent(driver: Any, server: Server) -> None:
    _open(driver, server)
    driver.execute_script(
        "fetch('picture/none').catch(() => 0);"
        "const canvas = document.createElement('canvas'); canvas.width = canvas.height = 64;"
        "canvas.toBlob(blob => { const data = new DataTransfer();"
        "data.items.add(new File([blob], 'drawn.png', {type: 'image/png'}));"
        "document.dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true})); })"
    )
    _wait(driver, "document.documentElement.dataset.state === 'done'")
    assert status(driver) == "drawn.png: 64 x 64 px"


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_cut_off(driver: Any, server: Server, width: int) -> None:
    _open(driver, server, width=width)
    send(driver, EXAMPLE)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    box = driver.execute_script(
        "const r = document.getElementById('stage').getBoundingClientRect();"
        "return [r.width, r.height]"
    )
    assert min(box) > 200
