"""TCM-rotated-RetinaNet on CLIP's ResNet-101."""

from .tcm_retinanet import dataloader, lr_multiplier, model, optimizer, train

model.backbone.name = "RN101-quickgelu"
train.output_dir = "output/tcm_retinanet_rn101"
