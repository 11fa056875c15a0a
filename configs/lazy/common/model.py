"""The detector without its head; the numbers are those of Base-DOTA.yaml and the defaults."""

from detectron2.config import LazyCall as L

from tcm_d2.config.defaults import DOTA_V1_PROMPTS
from tcm_d2.modeling.backbone.clip_resnet import build_clip_resnet
from tcm_d2.modeling.class_text import ClassTextConfig
from tcm_d2.modeling.detector import RotatedOneStageDetector
from tcm_d2.modeling.neck.fpn import FPNConfig
from tcm_d2.modeling.tcm.tcm import TCMConfig

model = L(RotatedOneStageDetector)(
    # First, as from a YAML file: the order of construction is the order of random numbers.
    head=None,
    # Any callable that returns a Detectron2 backbone; without class_text and tcm if not CLIP's.
    backbone=L(build_clip_resnet)(
        # Download the weights yourself, then model.backbone.weights=path/to/RN50.pt
        name="RN50-quickgelu",
        weights="",
        # Read only when name is "custom".
        embed_dim=1024,
        vision_layers=[3, 4, 6, 3],
        vision_width=64,
        text_width=512,
        text_heads=8,
        text_layers=12,
        vocab_size=49408,
        context_length=77,
        position_image_size_px=1024,
        norm="BN",
    ),
    # None, as tcm, for a detector without text.
    class_text=L(ClassTextConfig)(
        class_names=DOTA_V1_PROMPTS, template="{label}", tokens_per_class=8, context_words=""
    ),
    tcm=L(TCMConfig)(
        decoder_width=256,
        decoder_heads=4,
        decoder_layers=3,
        decoder_dropout=0.1,
        visual_scale_init=1e-3,
        text_scale_init=1e-4,
        temperature=0.07,
        prompt_generator="none",
        bimodal_matching=False,
        bimodal_matching_init="identity",
        visual_prompt=True,
        text_update=True,
    ),
    neck=L(FPNConfig)(
        in_features=["res3", "res4", "res5"],
        out_channels=256,
        extra_levels_from="output",
        relu_before_extra=True,
        num_extra_levels=2,
    ),
    pixel_mean=[122.7709383, 116.7460125, 104.09373615],
    pixel_std=[68.5005327, 66.6321579, 70.32316305],
    aux_loss_weight=1.0,
    aux_stride_px=4,
    channels_last=False,
    checkpoint_activations=False,
    # TRAIN.COMPILE and TEST.COMPILE.
    compile_training=False,
    compile_inference=False,
)
