"""CLIP-ResNet50 with the rotated ATSS head alone: the baseline without TCM of tcm_atss."""

from .tcm_atss import dataloader, lr_multiplier, model, optimizer, train

model.tcm = None
model.class_text = None
dataloader.train.mapper.with_class_masks = False
train.output_dir = "output/atss_no_tcm"
