"""TCM-rotated-FCOS in mixed precision (float16 with loss scaling)."""

from .tcm_fcos import dataloader, lr_multiplier, model, optimizer, train

train.amp.enabled = True
train.amp.dtype = "float16"
train.output_dir = "output/tcm_fcos_amp"
