"""TCM-rotated-FCOS on DIOR-R: twenty classes, whole images of 800 px; see datasets/README.md."""

from .tcm_fcos import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.names = ["dior_r_trainval"]
dataloader.test.names = ["dior_r_test"]
model.class_text.class_names = [
    "airplane",
    "airport",
    "baseball field",
    "basketball court",
    "bridge",
    "chimney",
    "expressway service area",
    "expressway toll station",
    "dam",
    "golf field",
    "ground track field",
    "harbor",
    "overpass",
    "ship",
    "stadium",
    "storage tank",
    "tennis court",
    "train station",
    "vehicle",
    "windmill",
]
model.head.num_classes = 20
train.output_dir = "output/tcm_fcos_dior_r"
