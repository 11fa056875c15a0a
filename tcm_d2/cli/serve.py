"""The command tcm-d2 serve."""

from __future__ import annotations

import argparse
import logging
import socket
import sys

from tcm_d2 import Detector
from tcm_d2.config.registries import import_user_parts
from tcm_d2.inference.bundled import DEFAULT_NAME
from tcm_d2.inference.speed import keep_memory

NEEDS = "pip install 'tcm_d2[serve]'"


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C; return the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        import uvicorn

        from tcm_d2.serve.app import is_loopback, make_app
        from tcm_d2.serve.pictures import PictureService
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        print(f"error: {error}; the page needs it: {NEEDS}", file=sys.stderr)
        return 2
    named = args.weights or args.config_file or DEFAULT_NAME
    try:
        import_user_parts(args.imports)
        detector = Detector.from_pretrained(
            named,
            config_file=args.config_file if args.weights else None,
            device=args.device,
            score_threshold=args.score_threshold,
            class_names=args.classes,
            window_px=args.window,
        )
        keep_memory(detector.device)
        family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
        listening = socket.create_server((args.host, args.port), family=family)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if args.traceback:
            raise
        print(f"error: {error} (--traceback shows where)", file=sys.stderr)
        return 2
    service = PictureService(detector, max_pixels=args.max_megapixels * 10**6)
    app = make_app(service, host=args.host, max_upload_bytes=args.max_upload_mb * 2**20)
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"{named}: {len(detector.classes)} classes, on {detector.device}")
    print(f"open http://{host}:{listening.getsockname()[1]}/ (Ctrl-C ends)", flush=True)
    if not is_loopback(args.host):
        print("anyone who reaches this machine may use the page", file=sys.stderr)
    config = uvicorn.Config(app, log_level="warning", server_header=False, date_header=False)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    return 0
