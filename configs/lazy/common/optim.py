"""Optimizer and learning rate of the published recipe; model and length come at run time."""

from detectron2.config import LazyCall as L

from tcm_d2.engine.optim import build_lr_multiplier, build_recipe_optimizer

optimizer = L(build_recipe_optimizer)(
    # "ADAMW" (betas, eps) or "SGD" (momentum, nesterov).
    name="ADAMW",
    lr=1e-4,
    # Batch size that lr is meant for: it is multiplied with the real one / this. 0: lr as it is.
    reference_batch_size=0,
    image_tower_lr_factor=0.3,
    weight_decay=1e-4,
    betas=[0.9, 0.999],
    eps=1e-8,
    momentum=0.9,
    nesterov=False,
    # One norm over all gradients; 0 does not clip.
    clip_max_norm=0.1,
    clip_norm_type=2.0,
)

lr_multiplier = L(build_lr_multiplier)(gamma=0.1, warmup_iters=500, warmup_factor=1 / 3)
