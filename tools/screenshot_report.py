#!/usr/bin/env python3
"""Take the pictures of a report for docs/, in headless Chromium.

apt-get install chromium chromium-driver && pip install selenium
tools/screenshot_report.py output/demo/report.html --out docs
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

# Of the palette; enough for a page with a photograph to look the same.
_MAX_COLORS = 256


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path, help="written by tools/report.py")
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR")
    parser.add_argument("--picture", type=int, default=2, help="which one to open large")
    args = parser.parse_args()
    binary, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver_path is None or not args.report.is_file():
        print(f"error: needs chromium, chromedriver and {args.report}", file=sys.stderr)
        return 1
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = binary
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        page = args.report.resolve().as_uri()
        top = shoot(driver, page, (1180, 1290), "dark")
        viewer = shoot(driver, page, (1180, 820), "dark", f"openViewer({args.picture})")
        write_png(args.out / "report.png", np.concatenate([top, viewer], axis=0))
        phone = [
            shoot(driver, page, (390, 844), "light"),
            shoot(driver, page, (390, 844), "light", "byId('curves').scrollIntoView()"),
            shoot(driver, page, (390, 844), "light", f"openViewer({args.picture})"),
        ]
        gap = np.full((844, 12, 3), 128, np.uint8)
        write_png(
            args.out / "report_phone.png",
            np.concatenate([phone[0], gap, phone[1], gap, phone[2]], axis=1),
        )
    finally:
        driver.quit()
    return 0


def shoot(
    driver: Any, page: str, size_wh: tuple[int, int], scheme: str, script: str = ""
) -> np.ndarray:
    """Return a picture of the page (H, W, 3), BGR."""
    metrics = {"width": size_wh[0], "height": size_wh[1], "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    driver.get(page)
    driver.execute_script(script)
    time.sleep(0.8)
    packed = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    return cv2.imdecode(np.frombuffer(base64.b64decode(packed), np.uint8), cv2.IMREAD_COLOR)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a PNG with a palette."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture[..., ::-1]))
    palette = image.quantize(_MAX_COLORS, method=Image.Quantize.MAXCOVERAGE, kmeans=3)
    image.quantize(_MAX_COLORS, palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}  {path.stat().st_size / 1e3:.0f} KB")


if __name__ == "__main__":
    sys.exit(main())
