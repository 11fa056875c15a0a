"""TCM-rotated-FCOS on CLIP's ResNet-101."""

from .tcm_fcos import dataloader, lr_multiplier, model, optimizer, train

model.backbone.name = "RN101-quickgelu"
train.output_dir = "output/tcm_fcos_rn101"
