"""Pictures of oriented boxes."""

from tcm_d2.visualize.draw import (
    Comparison,
    draw_boxes,
    draw_comparison,
    draw_score_map,
    make_contact_sheet,
    match_boxes,
    save_image,
)
from tcm_d2.visualize.palette import class_color

__all__ = [
    "Comparison",
    "class_color",
    "draw_boxes",
    "draw_comparison",
    "draw_score_map",
    "make_contact_sheet",
    "match_boxes",
    "save_image",
]
