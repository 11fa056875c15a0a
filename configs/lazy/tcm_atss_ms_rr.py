"""TCM-rotated-ATSS on three scales, with random rotation; see datasets/README.md."""

from detectron2.config import LazyCall as L

from tcm_d2.data.augmentation import RandomRotation

from .tcm_atss import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.names = ["dota_v1_ms_trainval"]
dataloader.test.names = ["dota_v1_ms_test"]
dataloader.train.mapper.augmentations.append(
    L(RandomRotation)(probability=0.5, max_angle_deg=180.0, border_rgb="${model.pixel_mean}")
)
train.output_dir = "output/tcm_atss_ms_rr"
