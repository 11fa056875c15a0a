"""TCM-rotated-FCOS on DOTA-v1.5 trainval, sixteen classes; see datasets/README.md."""

from tcm_d2.config.defaults import DOTA_V1_PROMPTS

from .tcm_fcos import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.names = ["dota_v15_trainval"]
dataloader.test.names = ["dota_v15_test"]
model.class_text.class_names = [*DOTA_V1_PROMPTS, "container crane"]
model.head.num_classes = 16
train.output_dir = "output/tcm_fcos_dota_v15"
