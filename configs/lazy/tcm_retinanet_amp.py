"""TCM-rotated-RetinaNet in mixed precision (float16 with loss scaling)."""

from .tcm_retinanet import dataloader, lr_multiplier, model, optimizer, train

train.amp.enabled = True
train.amp.dtype = "float16"
train.output_dir = "output/tcm_retinanet_amp"
