"""Settings of the embedded data set and the size statistics behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES


class ClassSize(NamedTuple):
    """Distribution of one class: log-normal long side in pixels and log-normal aspect ratio.

    Attributes:
        long_px: median of the long side.
        long_spread: standard deviation of its logarithm between scenes.
        aspect: median of long over short side.
        aspect_spread: standard deviation of its logarithm.
    """

    long_px: float
    long_spread: float
    aspect: float
    aspect_spread: float


# Summary numbers of DOTA-v1.0's validation objects (medians; spreads from the quartiles). Aspect
# ratios of round things are 1.0 with a little scatter.
CLASS_SIZES: dict[str, ClassSize] = {
    "plane": ClassSize(76.0, 0.75, 1.22, 0.10),
    "baseball-diamond": ClassSize(62.0, 0.50, 1.02, 0.02),
    "bridge": ClassSize(44.0, 0.60, 2.3, 0.45),
    "ground-track-field": ClassSize(112.0, 0.60, 1.95, 0.12),
    "small-vehicle": ClassSize(34.0, 0.26, 2.09, 0.08),
    "large-vehicle": ClassSize(66.0, 0.35, 3.5, 0.25),
    "ship": ClassSize(43.5, 0.36, 2.85, 0.14),
    "tennis-court": ClassSize(106.0, 0.42, 2.08, 0.04),
    "basketball-court": ClassSize(98.0, 0.50, 1.76, 0.07),
    "storage-tank": ClassSize(29.0, 0.55, 1.0, 0.01),
    "soccer-ball-field": ClassSize(139.0, 0.70, 1.62, 0.10),
    "roundabout": ClassSize(42.0, 0.42, 1.0, 0.02),
    "harbor": ClassSize(98.0, 0.70, 3.0, 0.55),
    "swimming-pool": ClassSize(39.0, 0.38, 1.60, 0.18),
    "helicopter": ClassSize(66.0, 0.45, 1.5, 0.30),
}


@dataclass(frozen=True)
class SyntheticConfig:
    """What the rendered images look like.

    The defaults follow DOTA's statistics (many small, crowded, some difficult objects);
    ``SyntheticConfig.easy`` keeps objects large enough for a tiny detector.

    Attributes:
        image_size_px: side of the square images.
        objects_scale: factor on all object sizes.
        size_spread: factor on the spread of sizes between scenes; 0 gives median sizes only.
        min_short_side_px: objects are enlarged, or left out, to keep their short side above this.
        max_long_fraction: no object is longer than this part of the image's side (piers, bridges
            and lorries excepted).
        max_aspect_ratio: piers and bridges are cut to this ratio.
        difficult_short_side_px: objects with a shorter short side are marked difficult.
        density: factor on the number of places (stalls, berths, stands) that are taken.
        degradation: strength of haze, blur, noise and JPEG; 1 is the spread seen in DOTA.
        classes: class names that are drawn and labelled; nothing of other classes is drawn.
        style: "plain" for the scenes of the embedded data set; "photo" for photo-like ones, where
            objects have true sizes at 0.1 to 1 m per pixel and many cameras are imitated;
            "landmarks" for such ones at up to 1.8 m per pixel of what is rare or large: fields,
            bridges, roundabouts, piers, long ships, tanks, helicopters. The last two
            take the image size, ``min_short_side_px``, ``difficult_short_side_px`` and ``classes``
            from here, and nothing else.
    """

    image_size_px: int = 1024
    objects_scale: float = 1.0
    size_spread: float = 1.0
    min_short_side_px: float = 3.0
    max_long_fraction: float = 0.45
    max_aspect_ratio: float = 36.0
    difficult_short_side_px: float = 8.0
    density: float = 1.0
    degradation: float = 1.0
    classes: Sequence[str] = field(default=tuple(DOTA_V1_CLASSES))
    style: Literal["plain", "photo", "landmarks"] = "plain"

    def __post_init__(self) -> None:
        if not isinstance(self.image_size_px, int) or self.image_size_px < 128:
            raise ValueError(
                f"image_size_px: expected an int of at least 128, got {self.image_size_px!r}"
            )
        for name in ("objects_scale", "max_aspect_ratio", "max_long_fraction"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)!r}")
        for name in ("size_spread", "density", "degradation", "min_short_side_px"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected a number >= 0, got {getattr(self, name)!r}")
        if self.style not in ("plain", "photo", "landmarks"):
            raise ValueError(f"style: expected 'plain', 'photo' or 'landmarks', got {self.style!r}")
        unknown = [name for name in self.classes if name not in CLASS_SIZES]
        if unknown or not self.classes:
            raise ValueError(
                f"classes: expected some of {sorted(CLASS_SIZES)}, got {list(self.classes)!r}"
            )

    @classmethod
    def easy(cls, *, image_size_px: int, classes: Sequence[str] | None = None) -> SyntheticConfig:
        """Return settings for a small detector trained for minutes.

        Short sides of at least 14 px, long sides of at most 0.28 of the image's (so that objects
        fit into patches of half its side), sizes that vary less between scenes, mild degradation,
        piers of at most 1:4.
        """
        return cls(
            image_size_px=image_size_px,
            size_spread=0.15,
            min_short_side_px=14.0,
            max_long_fraction=0.28,
            max_aspect_ratio=4.0,
            degradation=0.5,
            classes=tuple(DOTA_V1_CLASSES if classes is None else classes),
        )

    @classmethod
    def photo(cls, *, image_size_px: int, classes: Sequence[str] | None = None) -> SyntheticConfig:
        """Return settings for photo-like scenes: short sides of at least 4.5 px are labelled."""
        return cls(
            image_size_px=image_size_px,
            min_short_side_px=4.5,
            classes=tuple(DOTA_V1_CLASSES if classes is None else classes),
            style="photo",
        )

    @classmethod
    def landmarks(
        cls, *, image_size_px: int, classes: Sequence[str] | None = None
    ) -> SyntheticConfig:
        """Return settings for photo-like scenes of rare and large things."""
        return replace(cls.photo(image_size_px=image_size_px, classes=classes), style="landmarks")
