"""TCM-rotated-RetinaNet, 36 epochs."""

from .tcm_retinanet import dataloader, lr_multiplier, model, optimizer, train

train.max_epochs = 36
train.step_epochs = [24, 33]
train.output_dir = "output/tcm_retinanet_3x"
