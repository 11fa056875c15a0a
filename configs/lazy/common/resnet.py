"""A plain detector on torchvision's ResNet-50, with mmrotate's recipe; see fcos_r50."""

from detectron2.config import LazyCall as L

from tcm_d2.engine.optim import build_recipe_optimizer
from tcm_d2.modeling.backbone.resnet import build_torchvision_resnet

backbone = L(build_torchvision_resnet)(
    depth=50,
    stem_channels=64,
    res2_channels=256,
    num_groups=1,
    width_per_group=64,
    norm="FrozenBN",
    freeze_at=2,
    out_features=["res3", "res4", "res5"],
)

optimizer = L(build_recipe_optimizer)(
    name="SGD",
    # For batch 2.
    lr=0.0025,
    reference_batch_size=0,
    image_tower_lr_factor=1.0,
    weight_decay=1e-4,
    betas=[0.9, 0.999],
    eps=1e-8,
    momentum=0.9,
    nesterov=False,
    clip_max_norm=35.0,
    clip_norm_type=2.0,
)
