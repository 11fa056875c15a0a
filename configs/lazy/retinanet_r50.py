"""Rotated RetinaNet on ResNet-50, mmrotate's recipe: batch 2, SGD, 12 epochs; no text.

Download torchvision's ImageNet weights yourself, then train.init_checkpoint=path/to/resnet50.pth
"""

from .common.resnet import backbone, optimizer
from .retinanet_no_tcm import dataloader, lr_multiplier, model, train

model.backbone = backbone
# ImageNet's.
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
dataloader.train.total_batch_size = 2
train.step_epochs = [8, 11]
train.output_dir = "output/retinanet_r50"
