"""Losses of the heads: of boxes, chosen by name, of classes and of centre-ness."""

from tcm_d2.modeling.losses.contract import BoxLoss, box_loss_sum
from tcm_d2.modeling.losses.deltas import L1Loss, SmoothL1Loss
from tcm_d2.modeling.losses.gwd import GWDLoss
from tcm_d2.modeling.losses.iou import RotatedDIoULoss, RotatedGIoULoss, RotatedIoULoss
from tcm_d2.modeling.losses.kfiou import KFIoULoss
from tcm_d2.modeling.losses.kld import JDLoss, KLDLoss
from tcm_d2.modeling.losses.prob_iou import ProbIoULoss

__all__ = [
    "BoxLoss",
    "GWDLoss",
    "JDLoss",
    "KFIoULoss",
    "KLDLoss",
    "L1Loss",
    "ProbIoULoss",
    "RotatedDIoULoss",
    "RotatedGIoULoss",
    "RotatedIoULoss",
    "SmoothL1Loss",
    "box_loss_sum",
]
