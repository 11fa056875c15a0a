"""Rotated-box operators: IoU and its relatives, greedy NMS, points in boxes, quadrilaterals.

Boxes are (cx, cy, w, h, angle_deg), counter-clockwise on screen (y down), as in Detectron2.
"""

from tcm_d2.ops._library import ExtensionStatus, extension_status
from tcm_d2.ops.enclosing_iou import paired_diou_rotated, paired_giou_rotated
from tcm_d2.ops.iou import box_iou_rotated
from tcm_d2.ops.nms import batched_nms_rotated, nms_rotated
from tcm_d2.ops.paired_iou import paired_iou_rotated
from tcm_d2.ops.points import points_in_rotated_boxes
from tcm_d2.ops.quads import minimum_area_boxes, paired_quad_iou, quad_iou

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
