"""TCM-rotated-FCOS, 12 epochs: the published schedule, by the name it has elsewhere."""

from .tcm_fcos import dataloader, lr_multiplier, model, optimizer, train

train.max_epochs = 12
train.step_epochs = [9]
train.output_dir = "output/tcm_fcos_1x"
