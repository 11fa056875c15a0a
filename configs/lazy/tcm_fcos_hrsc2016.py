"""TCM-rotated-FCOS on HRSC2016: ships, whole images; see datasets/README.md."""

from .tcm_fcos import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.names = ["hrsc2016_trainval"]
dataloader.test.names = ["hrsc2016_test"]
model.class_text.class_names = ["ship"]
model.head.num_classes = 1
train.max_epochs = 36
train.step_epochs = [27]
train.output_dir = "output/tcm_fcos_hrsc2016"
