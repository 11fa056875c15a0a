"""TCM-rotated-FCOS on DOTA-v2.0 trainval: eighteen classes; see datasets/README.md."""

from tcm_d2.config.defaults import DOTA_V1_PROMPTS

from .tcm_fcos import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.names = ["dota_v2_trainval"]
dataloader.test.names = ["dota_v2_test"]
model.class_text.class_names = [*DOTA_V1_PROMPTS, "container crane", "airport", "helipad"]
model.head.num_classes = 18
train.output_dir = "output/tcm_fcos_dota_v2"
