"""FastTCM-rotated-FCOS: class prompts from a learnt query, matched with the image after."""

from .tcm_fcos import dataloader, lr_multiplier, model, optimizer, train

model.tcm.prompt_generator = "meta"
model.tcm.bimodal_matching = True
model.tcm.bimodal_matching_init = "identity"
train.output_dir = "output/tcm_fcos_fast"
