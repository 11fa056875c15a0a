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
from tcm_d2.visualize.score_maps import draw_class_score_maps

__all__ = [
    "Comparison",
    "class_color",
    "draw_boxes",
    "draw_class_score_maps",
    "draw_comparison",
    "draw_score_map",
    "make_contact_sheet",
    "match_boxes",
    "save_image",
]
