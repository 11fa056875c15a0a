"""Rotated-box operators: IoU and its relatives, greedy NMS, points in boxes, quadrilaterals.

Boxes are (cx, cy, w, h, angle_deg), counter-clockwise on screen (y down), as in Detectron2.
"""

from tcm_d2.ops import _detectron2
from tcm_d2.ops import quad_pairs as quad_pairs
from tcm_d2.ops.enclosing_iou import paired_diou_rotated, paired_giou_rotated
from tcm_d2.ops.iou import box_iou_rotated
from tcm_d2.ops.nms import batched_nms_rotated, nms_rotated
from tcm_d2.ops.paired_iou import paired_iou_rotated
from tcm_d2.ops.points import points_in_rotated_boxes
from tcm_d2.ops.quads_iou import paired_quad_iou, quad_iou
from tcm_d2.ops.registration import ExtensionStatus, extension_status
from tcm_d2.ops.smallest_boxes import minimum_area_boxes

__all__ = [
    "ExtensionStatus",
    "batched_nms_rotated",
    "box_iou_rotated",
    "extension_status",
    "minimum_area_boxes",
    "nms_rotated",
    "paired_diou_rotated",
    "paired_giou_rotated",
    "paired_iou_rotated",
    "paired_quad_iou",
    "points_in_rotated_boxes",
    "quad_iou",
]

# A Detectron2 without operators of its own gets ours.
_detectron2.register_missing_operators()
