"""CLIP-ResNet50 with the rotated RetinaNet head: the baseline without TCM of tcm_retinanet."""

from .tcm_retinanet import dataloader, lr_multiplier, model, optimizer, train

model.tcm = None
model.class_text = None
dataloader.train.mapper.with_class_masks = False
train.output_dir = "output/retinanet_no_tcm"
