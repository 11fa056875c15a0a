"""TCM-rotated-FCOS on DOTA-v1.5 trainval, sixteen classes; see datasets/README.md."""

from .tcm_fcos import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.names = ["dota_v15_trainval"]
dataloader.test.names = ["dota_v15_test"]
model.clip.class_prompts.class_names = [
    "plane",
    "baseball diamond",
    "bridge",
    "ground track field",
    "small vehicle",
    "large vehicle",
    "ship",
    "tennis court",
    "basketball court",
    "storage tank",
    "soccer ball field",
    "roundabout",
    "harbor",
    "swimming pool",
    "helicopter",
    "container crane",
]
model.head.num_classes = 16
train.output_dir = "output/tcm_fcos_dota_v15"
