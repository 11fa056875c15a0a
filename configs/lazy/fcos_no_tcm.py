"""CLIP-ResNet50 with the rotated FCOS head alone: the baseline without TCM of tcm_fcos."""

from .tcm_fcos import dataloader, lr_multiplier, model, optimizer, train

model.tcm = None
model.class_text = None
dataloader.train.mapper.with_class_masks = False
train.output_dir = "output/fcos_no_tcm"
