"""TCM-rotated-RetinaNet, 12 epochs: the published schedule, by the name it has elsewhere."""

from .tcm_retinanet import dataloader, lr_multiplier, model, optimizer, train

train.max_epochs = 12
train.step_epochs = [8, 11]
train.output_dir = "output/tcm_retinanet_1x"
