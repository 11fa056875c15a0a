"""CLIP-ResNet50 with the rotated FCOS head alone: the honest baseline of tcm_fcos."""

from .tcm_fcos import dataloader, lr_multiplier, model, optimizer, train

model.tcm = None
model.clip.with_text = False
train.output_dir = "output/fcos_no_tcm"
