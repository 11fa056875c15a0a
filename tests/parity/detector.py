"""The small detector of the golden end-to-end arrays, for each head.

Shared by the parity tests; the weights are too large to commit, so those tests need the golden
arrays beside the checkout and say so where they are absent.
"""

from __future__ import annotations

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances, RotatedBoxes
from torch import nn

import tcm_d2.modeling  # noqa: F401  registers the meta-architectures
from tcm_d2.checkpoint.convert import convert_mmrotate_state_dict
from tcm_d2.config import get_tcm_config
from tests.parity.golden import Golden

SIZE_HW = (256, 256)
NUM_CLASSES = 15


def small_config() -> CfgNode:
    """Return the configuration of the small CLIP that all three models share."""
    cfg = get_tcm_config()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "TCMRotatedFCOS"
    cfg.MODEL.CLIP.NAME = "custom"
    cfg.MODEL.CLIP.EMBED_DIM = 48
    cfg.MODEL.CLIP.VISION_LAYERS = [1, 1, 1, 1]
    cfg.MODEL.CLIP.VISION_WIDTH = 8
    cfg.MODEL.CLIP.TEXT_WIDTH = 64
    cfg.MODEL.CLIP.TEXT_HEADS = 1
    cfg.MODEL.CLIP.TEXT_LAYERS = 2
    cfg.MODEL.CLIP.POSITION_IMAGE_SIZE_PX = 256
    return cfg


def make_model(cfg: CfgNode, weights: dict[str, torch.Tensor]) -> nn.Module:
    """Return the detector with the reference's weights, its widths read off them.

    Args:
        cfg: from ``small_config``; changed in place.
        weights: the complete state dict by the reference's names.
    """
    cfg.MODEL.TCM.DECODER_WIDTH = weights["vis_context_decoder.out_proj.0.weight"].shape[0]
    cfg.MODEL.ROTATED_FPN.OUT_CHANNELS = weights["neck.fpn_convs.0.conv.weight"].shape[0]
    cfg.MODEL.ROTATED_HEAD.CHANNELS = weights["bbox_head.cls_convs.0.conv.weight"].shape[0]
    convs = {n.split(".")[2] for n in weights if n.startswith("bbox_head.cls_convs.")}
    cfg.MODEL.ROTATED_HEAD.NUM_CONVS = len(convs)
    model = build_model(cfg)
    converted = convert_mmrotate_state_dict(weights)
    assert converted.unknown == []
    missing, unexpected = model.load_state_dict(converted.state_dict, strict=False)
    assert not unexpected
    # The token ids come from our tokenizer, not from the checkpoint.
    assert all("token_ids" in name for name in missing), missing
    return model


def make_batch(golden: Golden, *, with_targets: bool) -> list[dict]:
    """Return the two golden images as the detector takes them."""
    inputs: list[dict] = []
    for i, image_bgr in enumerate(golden["images_bgr_u8"]):
        inputs.append({"image": image_bgr.flip(-1).permute(2, 0, 1).contiguous()})
        if with_targets:
            instances = Instances(SIZE_HW)
            instances.gt_boxes = RotatedBoxes(golden.boxes(f"gt{i}_boxes"))
            instances.gt_classes = golden[f"gt{i}_labels"].long()
            bits = np.unpackbits(golden[f"gt{i}_classmask_packed"].numpy())
            masks = bits[: NUM_CLASSES * 64 * 64].reshape(NUM_CLASSES, 64, 64)
            inputs[-1].update(instances=instances, class_masks=torch.from_numpy(masks).bool())
    return inputs


def train_without_dropout(model: nn.Module, *, frozen_bn: bool) -> nn.Module:
    """Put ``model`` into the mode in which the reference's losses were taken."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    if frozen_bn:
        model.backbone.eval()
    return model


def gradient_norms(
    model: nn.Module, batch: list[dict]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the losses, and the gradient norm of every trainable parameter."""
    losses = model(batch)
    sum(losses.values()).backward()
    norms = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"no gradient reaches {name}"
            norms[name] = parameter.grad.double().norm().item()
    return {name: value.item() for name, value in losses.items()}, norms
