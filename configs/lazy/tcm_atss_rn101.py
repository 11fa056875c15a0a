"""TCM-rotated-ATSS on CLIP's ResNet-101."""

from .tcm_atss import dataloader, lr_multiplier, model, optimizer, train

model.backbone.name = "RN101-quickgelu"
train.output_dir = "output/tcm_atss_rn101"
