"""CLIP-ResNet50 with the rotated ATSS head alone: the honest baseline of tcm_atss."""

from .tcm_atss import dataloader, lr_multiplier, model, optimizer, train

model.tcm = None
model.clip.with_text = False
train.output_dir = "output/atss_no_tcm"
