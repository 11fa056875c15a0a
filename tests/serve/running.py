"""The page on a free port of this machine, with the bundled detector, and a client for it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tcm_d2 import Detector
from tests.conftest import REPO_DIR

EXAMPLE = REPO_DIR / "docs/example.jpg"
MAX_UPLOAD_BYTES = 2_000_000
MAX_PIXELS = 600 * 600


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server(NamedTuple):
    port: int
    service: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        chunked: bool = False,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            if chunked:
                headers = {**(headers or {}), "Transfer-Encoding": "chunked"}
            connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            answer = connection.getresponse()
            found = {key.lower(): value for key, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def send(self, content: Any, name: str = "a.jpg", *, chunked: bool = False) -> Answer:
        path = f"/detect?name={name}"
        return self.ask("POST", path, content, {"X-TCM-D2": "1"}, chunked=chunked)


@contextmanager
def serve() -> Iterator[Server]:
    """Run the server in a thread; it ends with the block."""
    uvicorn = pytest.importorskip("uvicorn", reason="pip install 'tcm_d2[serve]'")
    pytest.importorskip("starlette", reason="pip install 'tcm_d2[serve]'")
    from tcm_d2.serve.app import make_app
    from tcm_d2.serve.pictures import PictureService

    detector = Detector.from_pretrained("tcm_atss_embedded", device="cpu")
    service = PictureService(detector, max_pixels=MAX_PIXELS)
    app = make_app(service, host="127.0.0.1", max_upload_bytes=MAX_UPLOAD_BYTES)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline and thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Server(port, service)
    finally:
        server.should_exit = True
        thread.join(30)


def temporary_folders(root: Path) -> list[str]:
    return [path.name for path in root.glob("tcm_d2_serve_*")]
