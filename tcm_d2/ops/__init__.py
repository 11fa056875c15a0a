"""Rotated-box operators: pairwise and paired IoU, greedy NMS.

Boxes are (cx, cy, w, h, angle_deg), counter-clockwise on screen (y down), as in Detectron2.
"""

from tcm_d2.ops._library import ExtensionStatus, extension_status
from tcm_d2.ops.diff_iou import paired_iou_rotated
from tcm_d2.ops.iou import box_iou_rotated
from tcm_d2.ops.nms import batched_nms_rotated, nms_rotated

__all__ = [
    "ExtensionStatus",
    "batched_nms_rotated",
    "box_iou_rotated",
    "extension_status",
    "nms_rotated",
    "paired_iou_rotated",
]
