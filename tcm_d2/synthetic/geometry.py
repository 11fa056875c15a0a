"""Poses and local frames of the synthetic scenes.

Points are (P, 2) x, y in image pixels (y down); angles are degrees counter-clockwise on screen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pose:
    """Where an object lies: centre, heading, extent along (length) and across (width) the heading.

    All lengths are image pixels.
    """

    x: float
    y: float
    heading_deg: float
    length: float
    width: float

    @property
    def short_side(self) -> float:
        """Length of the shorter side in pixels."""
        return min(self.length, self.width)

    def points(self, local: np.ndarray | list) -> np.ndarray:
        """Map points (P, 2) in fractions of (length, width), +x ahead and +y right, to pixels."""
        local = np.asarray(local, np.float64)
        angle_rad = math.radians(self.heading_deg)
        ahead = np.array([math.cos(angle_rad), -math.sin(angle_rad)]) * self.length
        right = np.array([math.sin(angle_rad), math.cos(angle_rad)]) * self.width
        return np.array([self.x, self.y]) + local[:, :1] * ahead + local[:, 1:] * right

    def quad(self) -> np.ndarray:
        """Return the four corners, clockwise on screen, starting at the front left (as DOTA)."""
        return self.points([[0.5, -0.5], [0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5]])

    def grown(self, margin_px: float) -> Pose:
        """Return the pose with ``margin_px`` added on all four sides."""
        return Pose(
            self.x,
            self.y,
            self.heading_deg,
            self.length + 2 * margin_px,
            self.width + 2 * margin_px,
        )


@dataclass(frozen=True)
class Frame:
    """A rotated pixel frame: origin in the image and the direction of its u axis."""

    x: float
    y: float
    angle_deg: float

    def points(self, local: np.ndarray | list) -> np.ndarray:
        """Map frame points (P, 2) u, v in pixels to image points (P, 2)."""
        return Pose(self.x, self.y, self.angle_deg, 1.0, 1.0).points(local)

    def pose(self, u: float, v: float, *, heading_deg: float, length: float, width: float) -> Pose:
        """Return the image pose of an object at (u, v) whose heading is relative to the frame."""
        x, y = self.points([[u, v]])[0]
        return Pose(float(x), float(y), self.angle_deg + heading_deg, length, width)

    def rect(self, u0: float, v0: float, u1: float, v1: float) -> np.ndarray:
        """Return the image corners (4, 2) of a frame rectangle."""
        return self.points([[u0, v0], [u1, v0], [u1, v1], [u0, v1]])


def mirrored(half: list[list[float]]) -> np.ndarray:
    """Return the closed outline made of a right half (y >= 0, nose to tail) and its mirror."""
    right = np.asarray(half, np.float64)
    return np.concatenate([right, right[::-1] * [1.0, -1.0]])


def ellipse(
    *,
    center: tuple[float, float] = (0.0, 0.0),
    radii: tuple[float, float] = (0.5, 0.5),
    start_deg: float = 0.0,
    stop_deg: float = 360.0,
    num: int = 40,
) -> np.ndarray:
    """Return points (num, 2) on an ellipse arc in a local frame."""
    turn = np.radians(np.linspace(start_deg, stop_deg, num))
    return np.stack([center[0] + radii[0] * np.cos(turn), center[1] + radii[1] * np.sin(turn)], 1)


def rounded_rect(
    *, length: float = 1.0, width: float = 1.0, radius: tuple[float, float] = (0.1, 0.1)
) -> np.ndarray:
    """Return the outline of a centred rectangle with elliptic corners, in local fractions."""
    rx, ry = min(radius[0], length / 2), min(radius[1], width / 2)
    corners = []
    for index, (sx, sy) in enumerate([(1, 1), (-1, 1), (-1, -1), (1, -1)]):
        centre = (sx * (length / 2 - rx), sy * (width / 2 - ry))
        corners.append(
            ellipse(
                center=centre, radii=(rx, ry), start_deg=90 * index, stop_deg=90 * index + 90, num=5
            )
        )
    return np.concatenate(corners)


def blob(
    rng: np.random.Generator,
    *,
    roughness: float,
    num: int = 14,
    radii: tuple[float, float] = (0.5, 0.5),
) -> np.ndarray:
    """Return a random roundish outline (num, 2) in local fractions around the origin."""
    turn = np.linspace(0, 2 * np.pi, num, endpoint=False)
    radius = 1.0 + roughness * rng.uniform(-1, 1, num)
    return np.stack([radius * radii[0] * np.cos(turn), radius * radii[1] * np.sin(turn)], 1)


def fraction_inside(quad: np.ndarray, *, width_px: int, height_px: int) -> float:
    """Return the part of a rectangle's area (its corners (4, 2)) inside the image.

    Measured on a 12 x 12 grid of points.
    """
    steps = (np.arange(12) + 0.5) / 12
    a, b = np.meshgrid(steps, steps)
    grid = quad[0] + a.reshape(-1, 1) * (quad[1] - quad[0]) + b.reshape(-1, 1) * (quad[3] - quad[0])
    inside = (grid >= 0).all(1) & (grid[:, 0] <= width_px) & (grid[:, 1] <= height_px)
    return float(inside.mean())
