"""CLIP-ResNet50 with the rotated RetinaNet head alone: the honest baseline of tcm_retinanet."""

from .tcm_retinanet import dataloader, lr_multiplier, model, optimizer, train

model.tcm = None
model.clip.with_text = False
train.output_dir = "output/retinanet_no_tcm"
