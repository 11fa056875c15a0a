"""The detector: images -> CLIP -> TCM -> pyramid -> head -> losses or Instances.

Shape letters: N images, C joint width of CLIP, K classes, H x W the stride-32 grid.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from tcm_d2.modeling.dense.normalizers import mean_over_ranks
from tcm_d2.modeling.tcm.matching import join_score_map, score_map_loss

# The image tower's coarsest stride; inputs are padded to a multiple of it.
SIZE_DIVISIBILITY_PX = 32


class RotatedOneStageDetector(nn.Module):
    """A CLIP image tower, optionally prompted by text (TCM), with a rotated one-stage head.

    The parts are objects; this class only wires them. Without ``tcm`` (then ``attention_pool`` and
    ``text_encoder`` are None as well) it is the plain CLIP-ResNet detector.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        attention_pool: nn.Module | None,
        text_encoder: nn.Module | None,
        tcm: nn.Module | None,
        neck: nn.Module,
        head: nn.Module,
        pixel_mean: list[float],
        pixel_std: list[float],
        aux_loss_weight: float,
        aux_stride_px: int,
        channels_last: bool,
    ) -> None:
        """Args:
        backbone: images (N, 3, H, W) -> {"res2" ... "res5"}.
        attention_pool: res5 -> global and dense tokens of the joint space.
        text_encoder: learnable context (and image prompt) -> class embeddings.
        tcm: tokens and class embeddings -> score map.
        neck: feature dict -> list of pyramid levels.
        head: has ``forward``, ``losses`` and ``predict``.
        pixel_mean: per channel, on values 0..255, in the order of the input's channels.
        pixel_std: likewise.
        aux_loss_weight: weight of the loss on the score map.
        aux_stride_px: pixels per cell of the class masks that this loss compares with.
        channels_last: keep convolution weights, and by them all maps, in this layout.
        """
        super().__init__()
        parts = (attention_pool, text_encoder, tcm)
        if any(p is None for p in parts) != all(p is None for p in parts):
            raise ValueError(
                "attention_pool, text_encoder and tcm: expected all three or none of them"
            )
        self.backbone = backbone
        self.attention_pool = attention_pool
        self.text_encoder = text_encoder
        self.tcm = tcm
        self.neck = neck
        self.head = head
        self.aux_loss_weight = aux_loss_weight
        self.aux_stride_px = aux_stride_px
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        # Text features of the last evaluation and the weights they were computed from.
        self._text_cache: tuple[tuple[Any, ...], Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Device of the parameters; inputs are moved there."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """Return losses in training, detections otherwise.

        Args:
            batched_inputs: one dict per image with ``image`` (3, H, W), values 0..255, any dtype;
                in training ``instances`` with ``gt_boxes`` (RotatedBoxes, image pixels) and
                ``gt_classes``, and ``class_masks`` bool (K, H // 4, W // 4) where TCM is on; in
                evaluation optionally ``height`` and ``width``, the size to which boxes are scaled.

        Returns:
            In training a dict of scalar losses; else a list of ``{"instances": Instances}`` with
            ``pred_boxes``, ``scores``, ``pred_classes``, by descending score. Boxes may reach over
            the image's border.
        """
        images = self.preprocess_images(batched_inputs)
        pyramid, score_map_NKHW = self.features(images.tensor)
        output = self.head(pyramid)
        if not self.training:
            detections = self.head.predict(output, images.image_sizes)
            return [
                {"instances": rescale(instances, inputs)}
                for instances, inputs in zip(detections, batched_inputs, strict=True)
            ]
        ground_truths = [inputs["instances"].to(self.device) for inputs in batched_inputs]
        losses = self.head.losses(
            output,
            [g.gt_boxes.tensor for g in ground_truths],
            [g.gt_classes for g in ground_truths],
        )
        if score_map_NKHW is not None:
            masks = self._stack_class_masks(batched_inputs, images.tensor.shape[-2:])
            losses["loss_score_map"] = self.aux_loss_weight * score_map_loss(
                score_map_NKHW, masks, mean_over_ranks=mean_over_ranks
            )
        return losses

    def preprocess_images(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Return the normalised images, padded with zeros to one size."""
        images = [
            (inputs["image"].to(self.pixel_mean) - self.pixel_mean) / self.pixel_std
            for inputs in batched_inputs
        ]
        return ImageList.from_tensors(images, SIZE_DIVISIBILITY_PX)

    def features(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Return the pyramid levels and the score map (None without TCM).

        Args:
            images: (N, 3, H, W) normalised; H and W multiples of 32.
        """
        features = self.backbone(images)
        score_map_NKHW = None
        if self.tcm is not None:
            tokens = self.attention_pool(features["res5"])
            text = self._text_features(tokens.global_NC)
            score_map_NKHW = self.tcm(tokens.global_NC, tokens.dense_NCHW, text).score_map_NKHW
            features["res5"] = join_score_map(features["res5"], score_map_NKHW)
        return self.neck(features), score_map_NKHW

    def _text_features(self, global_NC: Tensor) -> Tensor:
        """Return class embeddings (K, C), or (N, K, C) where the prompt depends on the image.

        Those that depend on weights only are computed once and kept until a weight changes.
        """
        if self.tcm.prompt_generator is not None:
            return self.text_encoder(self.tcm.context, self.tcm.prompt_generator(global_NC))
        if self.training or torch.is_grad_enabled():
            return self.text_encoder(self.tcm.context, None)
        sources = [self.tcm.context, *self.text_encoder.parameters(), *self.text_encoder.buffers()]
        # In-place writes (optimizers, loading) raise _version; moves change data_ptr.
        autocast = torch.is_autocast_enabled(global_NC.device.type)
        state = (autocast, *((s.data_ptr(), s._version, s.dtype) for s in sources))
        if self._text_cache is None or self._text_cache[0] != state:
            self._text_cache = (state, self.text_encoder(self.tcm.context, None))
        return self._text_cache[1]

    def train(self, mode: bool = True) -> RotatedOneStageDetector:
        """Set the mode as ``nn.Module.train`` does, and forget the kept text features."""
        self._text_cache = None
        return super().train(mode)

    def _stack_class_masks(
        self, batched_inputs: list[dict[str, Any]], padded_hw: tuple[int, int]
    ) -> Tensor:
        """Return the class masks as one bool (N, K, h, w), empty where images are padded."""
        masks = [inputs["class_masks"].to(self.device) for inputs in batched_inputs]
        height, width = padded_hw[0] // self.aux_stride_px, padded_hw[1] // self.aux_stride_px
        return torch.stack(
            [F.pad(m, (0, width - m.shape[-1], 0, height - m.shape[-2])) for m in masks]
        )


def rescale(instances: Instances, inputs: dict[str, Any]) -> Instances:
    """Return ``instances`` in the frame of the original image, without clipping.

    Args:
        instances: detections in the network's input frame.
        inputs: the input dict; ``height`` and ``width`` default to the network's input size.
    """
    height, width = instances.image_size
    target_hw = (int(inputs.get("height", height)), int(inputs.get("width", width)))
    if target_hw == (height, width):
        return instances
    scaled = Instances(target_hw, **instances.get_fields())
    scaled.pred_boxes = instances.pred_boxes.clone()
    scaled.pred_boxes.scale(target_hw[1] / width, target_hw[0] / height)
    return scaled
