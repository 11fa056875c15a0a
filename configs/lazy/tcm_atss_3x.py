"""TCM-rotated-ATSS, 36 epochs."""

from .tcm_atss import dataloader, lr_multiplier, model, optimizer, train

train.max_epochs = 36
train.step_epochs = [27]
train.output_dir = "output/tcm_atss_3x"
