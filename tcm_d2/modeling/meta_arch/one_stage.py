"""The detector: images -> CLIP -> TCM -> pyramid -> head -> losses or Instances.

Shape letters: N images, C joint width of CLIP, K classes, H x W the stride-32 grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from tcm_d2.layers.kept_tensor import KeptTensor
from tcm_d2.modeling.clip.text import FixedText, decode_prompts, format_prompts
from tcm_d2.modeling.dense.normalizers import mean_over_ranks
from tcm_d2.modeling.tcm.matching import join_score_map, score_map_loss

# The image tower's coarsest stride; inputs are padded to a multiple of it.
SIZE_DIVISIBILITY_PX = 32
# What torch.compile makes kernels with; tests take one that is done in seconds.
COMPILE_BACKEND = "inductor"
# Where the state dict holds the constants of `RotatedOneStageDetector.fix_text`.
FIXED_TEXT_NAMES = ("text_encoder.features", "text_encoder.class_token_ids")
FIXED_TEXT_MESSAGE = (
    "this model holds its text features as constants and has no text tower: it is made for "
    "inference; train from the checkpoint that it was made from"
)


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
        checkpoint_activations: bool,
        compile_training: bool,
        compile_inference: bool,
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
        checkpoint_activations: run the image tower's blocks and the head's towers again in the
            backward pass instead of keeping their maps.
        compile_training: let torch.compile make one graph of `dense_output` in training.
        compile_inference: likewise in evaluation.
        """
        super().__init__()
        parts = (attention_pool, text_encoder, tcm)
        if any(p is None for p in parts) != all(p is None for p in parts):
            raise ValueError(
                "attention_pool, text_encoder and tcm: expected all three or none of them"
            )
        self._kept_text = KeptTensor()
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
        for module in (backbone, *head.modules()):
            if hasattr(module, "checkpoint_activations"):
                module.checkpoint_activations = checkpoint_activations
        self.compile_training = compile_training
        self.compile_inference = compile_inference
        self._compiled: Callable[..., tuple[Any, Tensor | None]] | None = None
        if channels_last:
            self.to(memory_format=torch.channels_last)

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

        Raises:
            ValueError: in training, when the text is fixed.
        """
        if self.training and self.has_fixed_text:
            raise ValueError(FIXED_TEXT_MESSAGE)
        images = self.preprocess_images(batched_inputs)
        run = self.dense_output
        if self.compile_training if self.training else self.compile_inference:
            run = self._compiled_dense_output()
        output, score_map_NKHW = run(images.tensor, self._text_without_image())
        if not self.training:
            detections = self.head.predict(output, images.image_sizes)
            return [
                {"instances": rescale(instances, inputs)}
                for instances, inputs in zip(detections, batched_inputs, strict=True)
            ]
        ground_truths = [inputs["instances"] for inputs in batched_inputs]
        losses = self.head.losses(
            output,
            [self._send(g.gt_boxes.tensor) for g in ground_truths],
            [self._send(g.gt_classes) for g in ground_truths],
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
            (self._send(inputs["image"]).to(self.pixel_mean) - self.pixel_mean) / self.pixel_std
            for inputs in batched_inputs
        ]
        return ImageList.from_tensors(images, SIZE_DIVISIBILITY_PX)

    def features(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Return the pyramid levels and the score map (None without TCM).

        Args:
            images: (N, 3, H, W) normalised; H and W multiples of 32.
        """
        return self.features_with_text(images, self._text_without_image())

    def dense_output(self, images: Tensor, text: Tensor | None) -> tuple[Any, Tensor | None]:
        """Return the head's raw output and the score map (None without TCM).

        Args:
            images, text: see `features_with_text`.
        """
        pyramid, score_map_NKHW = self.features_with_text(images, text)
        return self.head(pyramid), score_map_NKHW

    def features_with_text(
        self, images: Tensor, text: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Return what `features` does, from class embeddings that are given.

        Nothing is kept or looked up on the way: this is what can be compiled and exported.

        Args:
            images: see `features`.
            text: (K, C) from `class_embeddings`; None where the prompts depend on the images, and
                without TCM.
        """
        features = self.backbone(images)
        score_map_NKHW = None
        if self.tcm is not None:
            tokens = self.attention_pool(features["res5"])
            if text is None:
                prompt = self.tcm.text_prompt(tokens.global_NC)
                text = self.tcm.prepare_text(self.text_encoder(self.tcm.context, prompt))
            score_map_NKHW = self.tcm(tokens.global_NC, tokens.dense_NCHW, text).score_map_NKHW
            features["res5"] = join_score_map(features["res5"], score_map_NKHW)
        return self.neck(features), score_map_NKHW

    def _text_without_image(self) -> Tensor | None:
        """Return the class embeddings, or None where there are none or images change them."""
        if self.tcm is None or self.tcm.text_needs_image:
            return None
        return self.class_embeddings()

    def _compiled_dense_output(self) -> Callable[..., tuple[Any, Tensor | None]]:
        if self._compiled is None:
            self._compiled = torch.compile(
                self.dense_output, fullgraph=True, backend=COMPILE_BACKEND
            )
        return self._compiled

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold: what was compiled belongs to this object."""
        return {**self.__dict__, "_compiled": None}

    def _send(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` on this device; the host does not wait for the copy."""
        return tensor.to(self.device, non_blocking=True)

    def class_embeddings(self) -> Tensor:
        """Return the class embeddings (K, C) as TCM takes them, which depend on weights only.

        In evaluation without gradients they are computed once and kept until a weight changes; see
        `KeptTensor` for the changes that are noticed.

        Raises:
            ValueError: there is no text, or the prompts depend on the image.
        """
        self._check_text_is_the_same_for_all_images()
        if self.has_fixed_text:
            return self.text_encoder.features
        if self.training or torch.is_grad_enabled():
            return self._encode_text()
        encoder = self.text_encoder
        own = [self.tcm.context, self.tcm.meta_query]
        sources = [tensor for tensor in own if tensor is not None]
        if self.tcm.prompt_generator is not None:
            sources += self.tcm.prompt_generator.parameters()
        return self._kept_text.get(
            [*sources, *encoder.parameters(), *encoder.buffers()], self._encode_text
        )

    def _encode_text(self) -> Tensor:
        """Run the text tower for prompts that do not depend on an image: (K, C)."""
        prompt = self.tcm.text_prompt(None)
        text = self.text_encoder(self.tcm.context, prompt)
        return self.tcm.prepare_text(text if prompt is None else text.squeeze(0))

    def _check_text_is_the_same_for_all_images(self) -> None:
        if self.tcm is None:
            raise ValueError(
                "class embeddings: this detector has none (MODEL.TCM.ENABLED is False)"
            )
        if self.tcm.text_needs_image:
            raise ValueError(
                "class embeddings: with MODEL.TCM.PROMPT_GENERATOR 'image' they differ from image "
                "to image, so that they cannot be kept or fixed and the text tower is needed; "
                "train with 'meta' or 'none'"
            )

    def set_class_names(self, class_names: Sequence[str], *, template: str) -> None:
        """Let the text tower read other names for the classes, in the order of the outputs.

        Args:
            class_names: as many as the head has classes.
            template: text around a name, see ``format_prompts``; the one of the training, usually.

        Raises:
            ValueError: the model has no text tower, or the names differ in number or do not fit.
        """
        if self.tcm is None:
            raise ValueError(
                "class names: this detector has no text (MODEL.TCM.ENABLED is False), so that "
                "names cannot change what it finds"
            )
        if self.has_fixed_text:
            raise ValueError(
                "class names: this model holds the text features of its classes as constants and "
                "has no text tower to read others; use the checkpoint that it was made from"
            )
        self.text_encoder.set_prompts(format_prompts(class_names, template))

    @property
    def has_fixed_text(self) -> bool:
        """Whether class embeddings are constants: the model then has no text tower."""
        return isinstance(self.text_encoder, FixedText)

    @torch.no_grad()
    def fix_text(
        self, features: Tensor | None = None, class_token_ids: Tensor | None = None
    ) -> None:
        """Hold the class embeddings as constants and drop the text tower: for inference only.

        The model is in evaluation mode afterwards.

        Args:
            features: (K, C) to hold, as a state dict has them; None takes this model's own.
            class_token_ids: int64 (K, N1), of which classes they are; goes with ``features``.

        Raises:
            ValueError: there is no text, prompts depend on the image, or the features are of
                another shape or of other classes.
        """
        self._check_text_is_the_same_for_all_images()
        self.eval()
        own_ids = self.text_encoder.class_token_ids
        if features is None or class_token_ids is None:
            features, class_token_ids = self.class_embeddings(), own_ids
        shape = (self.head.num_classes, len(self.tcm.text_scale))
        if tuple(features.shape) != shape:
            raise ValueError(
                f"fixed text: expected features of {shape[0]} classes and width {shape[1]}, got "
                f"shape {tuple(features.shape)}; is the configuration the one it was trained with?"
            )
        names, own_names = decode_prompts(class_token_ids), decode_prompts(own_ids)
        if names != own_names:
            raise ValueError(
                f"class prompts: the text features are constants, made for {', '.join(names)}, and "
                f"cannot become those of {', '.join(own_names)}; set MODEL.TCM.CLASS_NAMES and "
                "PROMPT_TEMPLATE to the former, or use the checkpoint that they were made from"
            )
        self.tcm.drop_text_parts()
        self.text_encoder = FixedText(features.to(self.pixel_mean), class_token_ids)
        self.text_encoder.to(self.device).eval()
        self._kept_text.forget()

    def train(self, mode: bool = True) -> RotatedOneStageDetector:
        """Set the mode as ``nn.Module.train`` does, and forget the kept class embeddings."""
        self._kept_text.forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move or cast as ``nn.Module`` does, and forget the kept class embeddings."""
        result = super()._apply(fn, recurse)
        self._kept_text.forget()
        return result

    def _stack_class_masks(
        self, batched_inputs: list[dict[str, Any]], padded_hw: tuple[int, int]
    ) -> Tensor:
        """Return the class masks as one bool (N, K, h, w), empty where images are padded."""
        masks = [self._send(inputs["class_masks"]) for inputs in batched_inputs]
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
