"""The embedded data set: rendered aerial-like scenes in DOTA's format."""

from tcm_d2.synthetic.config import CLASS_SIZES, SyntheticConfig
from tcm_d2.synthetic.render import RenderedImage, render_image
from tcm_d2.synthetic.things import Thing
from tcm_d2.synthetic.writer import SyntheticSummary, make_synthetic_dota

__all__ = [
    "CLASS_SIZES",
    "RenderedImage",
    "SyntheticConfig",
    "SyntheticSummary",
    "Thing",
    "make_synthetic_dota",
    "render_image",
]
