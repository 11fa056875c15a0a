#!/usr/bin/env python3
"""Draw the angle conventions for docs/angles.md, with numbers from the conversion functions.

tools/draw_angles.py --out docs/angles.svg
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tcm_d2.files import write_bytes_atomically
from tcm_d2.structures.conversions import boxes_to_le90, boxes_to_le135, boxes_to_oc, boxes_to_quads

_OURS, _WIDTH, _OTHER = "#0b5cad", "#c2410c", "#5b6470"
_FONT = 'font-family="Liberation Sans, Arial, sans-serif"'
# The rectangles of the rows, counter-clockwise degrees of the long side.
_ANGLES_DEG = (30.0, 60.0, -30.0, -60.0)
_LONG_PX, _SHORT_PX = 96.0, 44.0
_CELL_W, _CELL_H, _TOP = 210, 176, 262


class Convention(NamedTuple):
    """A column of the drawing."""

    name: str
    rule: tuple[str, str]
    to_degrees: Callable[[Tensor], tuple[float, float, float]]
    color: str


def _ours(boxes: Tensor) -> tuple[float, float, float]:
    return float(boxes[0, 2]), float(boxes[0, 3]), float(boxes[0, 4])


def _radians(convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], tuple[float, float, float]]:
    def numbers(boxes: Tensor) -> tuple[float, float, float]:
        row = convert(boxes)[0]
        return float(row[2]), float(row[3]), math.degrees(row[4])

    return numbers


CONVENTIONS = (
    Convention("tcm_d2", ("w >= h, [-90, 90)", "counter-clockwise, degrees"), _ours, _OURS),
    Convention(
        "le90", ("w >= h, [-90, 90)", "clockwise, radians"), _radians(boxes_to_le90), _OTHER
    ),
    Convention(
        "le135", ("w >= h, [-45, 135)", "clockwise, radians"), _radians(boxes_to_le135), _OTHER
    ),
    Convention("oc", ("any sides, (0, 90]", "clockwise, radians"), _radians(boxes_to_oc), _OTHER),
)


def draw() -> str:
    """Return the drawing as SVG."""
    width, height = _CELL_W * len(CONVENTIONS) + 20, _TOP + _CELL_H * len(_ANGLES_DEG) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">',
        "<title>Angle conventions of rotated boxes</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_definition(),
    ]
    for column, convention in enumerate(CONVENTIONS):
        left = 10 + column * _CELL_W
        middle = left + _CELL_W / 2
        parts.append(_text(middle, _TOP - 44, convention.name, 17, convention.color, weight="bold"))
        parts.append(_text(middle, _TOP - 25, convention.rule[0], 12.5, "#333333"))
        parts.append(_text(middle, _TOP - 9, convention.rule[1], 12.5, "#333333"))
        for row, angle_deg in enumerate(_ANGLES_DEG):
            boxes = torch.tensor([[0.0, 0.0, _LONG_PX, _SHORT_PX, angle_deg]], dtype=torch.float64)
            center = (middle, _TOP + row * _CELL_H + _CELL_H / 2 - 12)
            parts += _cell(boxes, convention, center, left, _TOP + row * _CELL_H)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _definition() -> list[str]:
    """Draw one large box with everything named, beside the formulas."""
    cx, cy, angle_deg = 215.0, 122.0, 30.0
    boxes = torch.tensor([[cx, cy, 190.0, 74.0, angle_deg]], dtype=torch.float64)
    quad = boxes_to_quads(boxes)[0]
    front, side = (quad[0] + quad[1]) / 2, (quad[0] + quad[3]) / 2
    lines = (
        "This project: (cx, cy, w, h, angle)",
        "w is the long side, the angle in degrees from the x axis",
        "to the w axis, counter-clockwise on the screen.",
        "y points down: w axis = (cos a, -sin a), h axis = (sin a, cos a).",
        "mmrotate's conventions below measure theta clockwise.",
        "angle = -theta; then sides and range are put in order.",
    )
    return [
        _arrow(24, 26, 96, 26, "#333333"),
        _text(104, 31, "x", 15, "#333333", anchor="start"),
        _arrow(24, 26, 24, 98, "#333333"),
        _text(24, 116, "y", 15, "#333333"),
        _polygon(quad, "#dcebfa", _OURS, 2.5),
        f'<line x1="{cx}" y1="{cy}" x2="{cx + 112}" y2="{cy}" stroke="{_OTHER}" '
        'stroke-width="1.2" stroke-dasharray="5 4"/>',
        _arc((cx, cy), 62, angle_deg, _OURS),
        _arrow(cx, cy, float(front[0]), float(front[1]), _WIDTH),
        _arrow(cx, cy, float(side[0]), float(side[1]), "#2f7d32"),
        f'<circle cx="{cx}" cy="{cy}" r="3.5" fill="#111111"/>',
        _text(cx - 8, cy - 8, "cx, cy", 13, "#111111", anchor="end"),
        _text(cx + 116, cy - 12, f"angle {angle_deg:g}", 14, _OURS, anchor="start"),
        _text(float(front[0]) + 8, float(front[1]) - 2, "w", 16, _WIDTH, anchor="start"),
        _text(float(side[0]) + 8, float(side[1]) + 16, "h", 16, "#2f7d32", anchor="start"),
        *(
            _text(430, 48 + 24 * number, line, 15 if number else 17, "#222222", anchor="start",
                  weight="normal" if number else "bold")
            for number, line in enumerate(lines)
        ),
    ]  # fmt: skip


def _cell(
    boxes: Tensor, convention: Convention, center: tuple[float, float], left: float, top: float
) -> list[str]:
    """Draw one rectangle in one convention, with its angle and numbers."""
    w, h, degrees = convention.to_degrees(boxes)
    ccw_deg = degrees if convention.color == _OURS else -degrees
    quad = boxes_to_quads(boxes)[0] + torch.tensor(center, dtype=torch.float64)
    x, y = center
    end_x = x + w / 2 * math.cos(math.radians(ccw_deg))
    end_y = y - w / 2 * math.sin(math.radians(ccw_deg))
    unit = "deg" if convention.color == _OURS else "rad"
    shown = degrees if unit == "deg" else math.radians(degrees)
    numbers = f"w {w:.0f}, h {h:.0f}, {shown:.0f} deg" if unit == "deg" else (
        f"w {w:.0f}, h {h:.0f}, {shown:.3f} ({degrees:.0f} deg)"
    )  # fmt: skip
    return [
        f'<rect x="{left + 4}" y="{top + 4}" width="{_CELL_W - 8}" height="{_CELL_H - 8}" '
        'fill="none" stroke="#d5dae0"/>',
        _polygon(quad, "#f1f5f9", _OURS, 1.8),
        f'<line x1="{x:.2f}" y1="{y:.2f}" x2="{x + 62:.2f}" y2="{y:.2f}" stroke="{_OTHER}" '
        'stroke-width="1.1" stroke-dasharray="4 3"/>',
        _arc(center, 27, ccw_deg, convention.color),
        _arrow(x, y, end_x, end_y, _WIDTH),
        _text(left + _CELL_W / 2, top + _CELL_H - 15, numbers, 12.5, "#222222"),
    ]


def _text(
    x: float,
    y: float,
    text: str,
    size: float,
    color: str,
    *,
    anchor: str = "middle",
    weight: str = "normal",
) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return (
        f'<text x="{x:.2f}" y="{y:.2f}" {_FONT} font-size="{size:g}" font-weight="{weight}" '
        f'fill="{color}" text-anchor="{anchor}">{text}</text>'
    )


def _polygon(quad: Tensor, fill: str, stroke: str, stroke_width: float) -> str:
    points = " ".join(f"{float(x):.2f},{float(y):.2f}" for x, y in quad)
    return (
        f'<polygon points="{points}" fill="{fill}" stroke="{stroke}" '
        f'stroke-width="{stroke_width:g}"/>'
    )


def _arrow(x1: float, y1: float, x2: float, y2: float, color: str) -> str:
    """Return a line with a head at its end."""
    direction = math.atan2(y2 - y1, x2 - x1)
    head = [
        (x2 - 9 * math.cos(direction + turn), y2 - 9 * math.sin(direction + turn))
        for turn in (0.42, -0.42)
    ]
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in [(x2, y2), *head])
    return (
        f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" stroke="{color}" '
        f'stroke-width="2.2"/><polygon points="{points}" fill="{color}"/>'
    )


def _arc(center: tuple[float, float], radius: float, ccw_deg: float, color: str) -> str:
    """Return an arc with a head from the x axis; positive angles turn counter-clockwise."""
    x, y = center
    sign = 1.0 if ccw_deg >= 0 else -1.0
    end_rad = math.radians(ccw_deg)
    end = (x + radius * math.cos(end_rad), y - radius * math.sin(end_rad))
    # Along the circle at its end.
    forward = (-sign * math.sin(end_rad), -sign * math.cos(end_rad))
    outward = (math.cos(end_rad), -math.sin(end_rad))
    head = [end]
    for side in (4.0, -4.0):
        head.append(
            (
                end[0] - 8 * forward[0] + side * outward[0],
                end[1] - 8 * forward[1] + side * outward[1],
            )
        )
    points = " ".join(f"{px:.2f},{py:.2f}" for px, py in head)
    large = int(abs(ccw_deg) > 180)
    sweep = int(ccw_deg < 0)
    return (
        f'<path d="M{x + radius:.2f} {y:.2f}A{radius:g} {radius:g} 0 {large} {sweep} '
        f'{end[0]:.2f} {end[1]:.2f}" fill="none" stroke="{color}" stroke-width="2"/>'
        f'<polygon points="{points}" fill="{color}"/>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/angles.svg"), metavar="FILE")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(args.out, draw().encode("ascii"))
    print(args.out)


if __name__ == "__main__":
    main()
