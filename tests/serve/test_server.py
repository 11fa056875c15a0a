"""The page's server: what it answers, what it refuses, what it leaves behind."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from tcm_d2.cli.main import run_command
from tests.serve.running import EXAMPLE, MAX_UPLOAD_BYTES, Server, serve, temporary_folders


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    root = Path(tempfile.gettempdir())
    before = temporary_folders(root)
    yield
    assert temporary_folders(root) == before


@pytest.fixture(scope="module")
def sent(server: Server) -> dict:
    return server.send(EXAMPLE.read_bytes(), "harbour%20view.jpg").json


def test_what_is_found_is_the_detectors(server: Server, sent: dict) -> None:
    expected = server.service.detector(EXAMPLE, score_threshold=0.05)
    assert (sent["width"], sent["height"]) == (512, 512) and sent["name"] == "harbour view.jpg"
    assert [d["class"] for d in sent["detections"]] == expected.class_ids.tolist()
    np.testing.assert_allclose([d["quad"] for d in sent["detections"]], expected.quads, atol=0.006)


def test_the_picture_comes_back_for_the_page(server: Server, sent: dict) -> None:
    answer = server.ask("GET", f"/picture/{sent['key']}")
    image = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)
    assert answer.headers["content-type"] == "image/jpeg" and image.shape == (512, 512, 3)


def test_downloads_hold_what_is_shown(server: Server, sent: dict) -> None:
    shown = [d for d in sent["detections"] if d["score"] >= 0.3]
    classes = sorted({d["class"] for d in shown})
    query = f"threshold=0.3&classes={classes[0]}"
    kept = [d for d in shown if d["class"] == classes[0]]
    path = f"/download/{sent['key']}"
    collection = server.ask("GET", f"{path}/geojson?{query}").json
    assert len(collection["features"]) == len(kept) and collection["name"] == "harbour view"
    answer = server.ask("GET", f"{path}/dota?{query}")
    assert len(answer.body.decode().splitlines()) == len(kept)
    assert answer.headers["content-disposition"].endswith("harbour%20view.txt")
    tree = server.ask("GET", f"{path}/coco?threshold=0.3").json
    assert len(tree["annotations"]) == len(shown)
    assert tree["images"][0]["file_name"] == "harbour view"  # no path of this machine
    assert "tcm_d2_serve" not in str(tree)
    assert server.ask("GET", f"{path}/dota?threshold=0.3&classes=").body == b""


def test_a_geotiff_keeps_its_place(server: Server, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    image = cv2.cvtColor(cv2.imread(str(EXAMPLE)), cv2.COLOR_BGR2RGB).transpose(2, 0, 1)
    transform = rasterio.transform.from_origin(400000, 5600000, 0.5, 0.5)
    profile = {"driver": "GTiff", "count": 3, "height": 512, "width": 512, "dtype": "uint8"}
    with rasterio.open(
        tmp_path / "a.tif", "w", crs="EPSG:32633", transform=transform, **profile
    ) as file:
        file.write(image)
    sent = server.send((tmp_path / "a.tif").read_bytes(), "a.tif").json
    found = server.ask("GET", f"/download/{sent['key']}/geojson?threshold=0.3").json
    assert found["crs"]["properties"]["name"].endswith("32633")
    assert found["features"][0]["geometry"]["coordinates"][0][0][0] > 399_000


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "got an empty file"),
        (b"no picture", 400, "harbour.jpg"),
        (EXAMPLE.read_bytes()[:2000], 400, "harbour.jpg"),
        (b"x" * (MAX_UPLOAD_BYTES + 1), 413, "--max-upload-mb"),
        (cv2.imencode(".png", np.zeros((700, 700), np.uint8))[1].tobytes(), 413, "700 x 700 px"),
        (b'<VRTDataset rasterXSize="9" rasterYSize="9"></VRTDataset>', 400, "harbour.jpg"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    server: Server, content: bytes, status: int, message: str
) -> None:
    answer = server.send(content, "harbour.jpg")
    assert answer.status == status and message in answer.json["error"]
    assert tempfile.gettempdir() not in answer.json["error"]


def test_the_limit_holds_where_no_length_is_declared(server: Server) -> None:
    blocks = (b"x" * 300_000 for _ in range(20))
    answer = server.send(blocks, chunked=True)
    assert answer.status == 413 and "--max-upload-mb" in answer.json["error"]


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/page.css/../../app.py", "/%2e%2e/app.py", "/app.py", "/picture/x",
     "/picture/..%2f..%2fetc%2fpasswd", "/download/x/geojson", "/download/x/../../etc/passwd"],
)  # fmt: skip
def test_no_path_is_opened(server: Server, path: str) -> None:
    answer = server.ask("GET", path)
    assert answer.status == 404 and b"import" not in answer.body


@pytest.mark.parametrize(
    "name", ["../../evil.png", "a.vrt", "/etc/passwd", "\u202e.png", "x" * 400]
)
def test_a_name_is_no_path(server: Server, name: str) -> None:
    answer = server.send(EXAMPLE.read_bytes(), quote(name, safe=""))
    assert answer.status == 200
    assert "/" not in answer.json["name"]


def test_other_sites_get_no_answer(server: Server) -> None:
    # A simple request of another page lacks the header; a rebound name is no name of this machine.
    assert server.ask("POST", "/detect", EXAMPLE.read_bytes()).status == 403
    assert server.ask("GET", "/", headers={"Host": "evil.example"}).status == 400
    preflight = {
        "Origin": "http://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-tcm-d2",
    }
    answer = server.ask("OPTIONS", "/detect", headers=preflight)
    assert "access-control-allow-origin" not in answer.headers
    policy = server.ask("GET", "/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "http" not in policy


def test_only_the_last_results_are_kept(server: Server) -> None:
    first = server.send(EXAMPLE.read_bytes()).json["key"]
    found = server.service._results[first]
    for number in range(16):
        server.service._results[f"later{number}"] = found
    server.send(EXAMPLE.read_bytes())
    assert len(server.service._results) == 16
    answer = server.ask("GET", f"/picture/{first}")
    assert answer.status == 404 and "not kept any more" in answer.json["error"]


def test_without_the_extra_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run_command("serve", []) == 2
    assert "pip install 'tcm_d2[serve]'" in capsys.readouterr().err


def test_a_taken_port_is_one_sentence(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("serve", ["--port", str(server.port), "--device", "cpu"]) == 2
    assert "error: " in capsys.readouterr().err
