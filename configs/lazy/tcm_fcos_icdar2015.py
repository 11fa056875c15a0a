"""TCM-rotated-FCOS on ICDAR2015, scene text, never mirrored; see datasets/README.md."""

from detectron2.config import LazyCall as L

from tcm_d2.data.augmentation import RandomRotation

from .tcm_fcos import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.names = ["icdar2015_train"]
dataloader.test.names = ["icdar2015_test"]
dataloader.train.mapper.augmentations = [
    L(RandomRotation)(probability=0.5, max_angle_deg=10.0, border_rgb="${model.pixel_mean}")
]
model.class_text.class_names = ["text"]
model.head.num_classes = 1
train.max_epochs = 36
train.step_epochs = [27]
train.output_dir = "output/tcm_fcos_icdar2015"
