"""TCM with S2A-Net's head: boxes of a first stage align the features of a second; not published."""

from detectron2.config import LazyCall as L

from tcm_d2.modeling.dense.anchor_assigners import MaxIoUAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator
from tcm_d2.modeling.dense.delta_coder import DeltaBoxCoder
from tcm_d2.modeling.heads.s2anet import RotatedS2ANetHead
from tcm_d2.modeling.losses import SmoothL1Loss

from .common.data import dataloader
from .common.model import model
from .common.optim import lr_multiplier, optimizer
from .common.train import train

model.neck.extra_levels_from = "input"
model.neck.relu_before_extra = False
model.head = L(RotatedS2ANetHead)(
    in_channels="${model.neck.out_channels}",
    channels=256,
    num_classes=15,
    num_convs=2,
    norm="",
    prior_prob=0.01,
    anchor_generator=L(AnchorGenerator)(
        strides_px=[8, 16, 32, 64, 128],
        base_side_strides=4.0,
        scales_per_octave=1,
        ratios=[1.0],
        width_side="long",
    ),
    assigner=L(MaxIoUAssigner)(
        positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0, iou_rounding="exact"
    ),
    second_assigner=L(MaxIoUAssigner)(
        positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0, iou_rounding="exact"
    ),
    coder=L(DeltaBoxCoder)(
        min_angle_deg=-90.0,
        quarter_from_deg=None,
        along_axes=True,
        swap_sides=True,
        turn_unit_rad=1.0,
    ),
    focal_loss_gamma=2.0,
    focal_loss_alpha=0.25,
    box_loss=L(SmoothL1Loss)(beta=1 / 9, weight=1.0),
    score_threshold=0.05,
    topk_candidates=2000,
    nms_threshold=0.1,
    max_detections=2000,
    # "text": open vocabulary, see docs/open_vocabulary.md.
    classifier="linear",
)
train.step_epochs = [8, 11]
train.output_dir = "output/tcm_s2anet"
