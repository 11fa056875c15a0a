"""TCM-rotated-FCOS on UCAS-AOD, cars and planes, with lists of your own; see datasets/README.md."""

from .tcm_fcos import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.names = ["ucas_aod_trainval"]
dataloader.test.names = ["ucas_aod_test"]
model.class_text.class_names = ["car", "plane"]
model.head.num_classes = 2
train.max_epochs = 36
train.step_epochs = [27]
train.output_dir = "output/tcm_fcos_ucas_aod"
