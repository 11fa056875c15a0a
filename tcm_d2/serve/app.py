"""The page as a web application: what it answers to, and what it refuses."""

from __future__ import annotations

import ipaddress
import logging
from importlib.resources import files
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tcm_d2.serve.pictures import FORMATS, LOWEST_SCORE, PictureService, TooLargeError
from tcm_d2.visualize.palette import class_color

logger = logging.getLogger(__name__)

_ASSETS = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
# A page of another site cannot send this without asking first, which is not answered.
GUARD_HEADER = "x-tcm-d2"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_app(service: PictureService, *, host: str, max_upload_bytes: int) -> Starlette:
    """Return the application.

    Args:
        host: that it is served on; requests under other names are refused on loopback.
        max_upload_bytes: of a picture's file.
    """
    page = files("tcm_d2.serve") / "assets"
    contents = {path: (page / name).read_bytes() for path, (name, _) in _ASSETS.items()}

    async def asset(request: Request) -> Response:
        path = request.url.path
        return Response(contents[path], media_type=_ASSETS[path][1], headers=_HEADERS)

    async def info(request: Request) -> Response:
        detector = service.detector
        classes = [
            {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*class_color(index))}
            for index, name in enumerate(detector.classes)
        ]
        return _json(
            {
                "classes": classes,
                "threshold": detector.config.score_threshold,
                "lowest": LOWEST_SCORE,
                "max_bytes": max_upload_bytes,
            }
        )

    async def detect(request: Request) -> Response:
        if GUARD_HEADER not in request.headers:
            return _json(
                {"error": f"expected the header {GUARD_HEADER}, which the page sends"}, 403
            )
        too_large = (
            f"more than the {max_upload_bytes / 2**20:.0f} MiB that this page takes "
            "(--max-upload-mb)"
        )
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > max_upload_bytes:
            return _json({"error": too_large}, 413)
        with service.new_folder() as folder:
            path, num_bytes = service.file_in(folder), 0
            try:
                with path.open("wb") as stream:
                    async for block in request.stream():
                        num_bytes += len(block)
                        if num_bytes > max_upload_bytes:
                            return _json({"error": too_large}, 413)
                        await run_in_threadpool(stream.write, block)
            except ClientDisconnect:
                return Response(status_code=400)
            if num_bytes == 0:
                return _json({"error": "expected a picture, got an empty file"}, 400)
            name = request.query_params.get("name", "picture")
            try:
                return _json(await run_in_threadpool(service.detect, path, name))
            except TooLargeError as error:
                return _json({"error": str(error)}, 413)
            except (ValueError, OSError, ModuleNotFoundError) as error:
                return _json({"error": str(error)}, 400)
            except MemoryError as error:
                return _json({"error": str(error) or "out of memory"}, 507)

    async def picture(request: Request) -> Response:
        content = service.preview(request.path_params["key"])
        if content is None:
            return _json({"error": "this picture is not kept any more; send it again"}, 404)
        return Response(content, media_type="image/jpeg", headers=_HEADERS)

    async def download(request: Request) -> Response:
        given, form = request.query_params, request.path_params["form"]
        try:
            threshold = float(given.get("threshold", "0"))
            words = given.get("classes")
            class_ids = None if words is None else [int(word) for word in words.split(",") if word]
        except ValueError:
            return _json({"error": "threshold, classes: expected numbers"}, 400)
        found = service.file(
            request.path_params["key"], form, score_threshold=threshold, class_ids=class_ids
        )
        if found is None:
            return _json({"error": "this result is not kept any more; send the picture again"}, 404)
        name, content = found
        headers = {
            **_HEADERS,
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        }
        return Response(content, media_type=FORMATS[form][1], headers=headers)

    names = ["localhost", "127.0.0.1", "[::1]", host] if is_loopback(host) else ["*"]
    return Starlette(
        routes=[
            *(Route(path, asset) for path in _ASSETS),
            Route("/info", info),
            Route("/detect", detect, methods=["POST"]),
            Route("/picture/{key}", picture),
            Route("/download/{key}/{form}", download),
        ],
        # Another site whose name leads here (DNS rebinding) does not get an answer.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)],
    )


def _json(content: object, status: int = 200) -> Response:
    return JSONResponse(content, status_code=status, headers=_HEADERS)
