"""The classes as text: their prompts, and what CLIP's text tower makes of them.

Shape letters: K classes, N images, C joint width, D token width, N1 token ids kept per class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from open_clip.model import CLIP
from torch import Tensor, nn

from tcm_d2.config.registries import PART_REGISTRY
from tcm_d2.layers.kept_tensor import KeptTensor
from tcm_d2.modeling.clip.text import (
    PromptedTextEncoder,
    decode_prompts,
    format_prompts,
    tokenize_prompts,
)
from tcm_d2.modeling.clip.towers import TextSide
from tcm_d2.modeling.tcm.tcm import TCM

# Where the state dict holds the constants of `FixedClassText`.
FIXED_TEXT_NAMES = ("text_encoder.features", "text_encoder.class_token_ids")
FIXED_TEXT_MESSAGE = (
    "this model holds its text features as constants and has no text tower: it is made for "
    "inference; train from the checkpoint that it was made from"
)


@PART_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class ClassTextConfig:
    """What the text tower reads for the classes.

    Attributes:
        class_names: in label order.
        template: text put around a name in place of ``{label}``.
        tokens_per_class: N1, start and end of text included; the context takes the other places.
    """

    class_names: Sequence[str]
    template: str
    tokens_per_class: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a Detectron2 configuration."""
        tcm = cfg.MODEL.TCM
        return {
            "class_names": tcm.CLASS_NAMES,
            "template": tcm.PROMPT_TEMPLATE,
            "tokens_per_class": tcm.TOKENS_PER_CLASS,
        }


class ClassText(PromptedTextEncoder):
    """Class embeddings from CLIP's text tower, kept in evaluation until a weight changes."""

    def __init__(self, clip: CLIP, config: ClassTextConfig) -> None:
        """Take over and freeze the text tower of ``clip``.

        Raises:
            ValueError: the prompts do not fit the tower.
        """
        context_length = len(clip.positional_embedding)
        if not 2 <= config.tokens_per_class < context_length:
            raise ValueError(
                f"tokens per class: expected 2 to {context_length - 1} (below the context "
                f"length), got {config.tokens_per_class}; set MODEL.TCM.TOKENS_PER_CLASS"
            )
        prompts = format_prompts(config.class_names, config.template)
        token_ids = tokenize_prompts(
            prompts, tokens_per_class=config.tokens_per_class, vocab_size=clip.vocab_size
        )
        super().__init__(clip, token_ids)
        self._kept = KeptTensor()

    def encode(self, tcm: TCM, global_NC: Tensor | None = None) -> Tensor:
        """Run the text tower: (K, C), or (N, K, C) where the prompts depend on the images.

        Args:
            tcm: holds the learnable context and makes the prompts.
            global_NC: global tokens of the images (N, C), where the prompts depend on them.
        """
        prompt = tcm.text_prompt(global_NC)
        text = self(tcm.context, prompt)
        is_one_for_all = prompt is not None and not tcm.text_needs_image
        return tcm.prepare_text(text.squeeze(0) if is_one_for_all else text)

    def embeddings(self, tcm: TCM) -> Tensor:
        """Return the class embeddings (K, C) as TCM takes them, which depend on weights only.

        In evaluation without gradients they are computed once and kept until a weight changes; see
        `KeptTensor` for the changes that are noticed.

        Raises:
            ValueError: the prompts depend on the image.
        """
        check_text_is_the_same_for_all_images(tcm)
        if self.training or torch.is_grad_enabled():
            return self.encode(tcm)
        own = [tcm.context, tcm.meta_query]
        sources = [tensor for tensor in own if tensor is not None]
        if tcm.prompt_generator is not None:
            sources += tcm.prompt_generator.parameters()
        return self._kept.get(
            [*sources, *self.parameters(), *self.buffers()], lambda: self.encode(tcm)
        )

    def set_class_names(self, class_names: Sequence[str], *, template: str) -> None:
        """Read other names for the classes, in the order of the outputs.

        Args:
            class_names: as many as before.
            template: text around a name, see ``format_prompts``; the one of the training, usually.

        Raises:
            ValueError: the names differ in number or do not fit.
        """
        num_classes, tokens_per_class = self.class_token_ids.shape
        if len(class_names) != num_classes:
            raise ValueError(
                f"class names: expected {num_classes}, got {len(class_names)}; names can be "
                "changed, their number cannot: the head's class convolution has that many outputs, "
                "and the pyramid takes that many channels of score map"
            )
        self.class_token_ids = tokenize_prompts(
            format_prompts(class_names, template),
            tokens_per_class=tokens_per_class,
            vocab_size=self.token_embedding.num_embeddings,
        ).to(self.class_token_ids.device)

    def train(self, mode: bool = True) -> ClassText:
        """Set the mode as ``nn.Module.train`` does, and forget the kept class embeddings."""
        self._kept.forget()
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move or cast as ``nn.Module`` does, and forget the kept class embeddings."""
        result = super()._apply(fn, recurse)
        self._kept.forget()
        return result


class FixedClassText(nn.Module):
    """Class embeddings that were computed once, in the place of the tower that made them.

    Attributes:
        features: (K, C), in the state dict.
        class_token_ids: int64 (K, N1), in the state dict: what the classes are called.
    """

    features: Tensor
    class_token_ids: Tensor

    def __init__(self, features: Tensor, class_token_ids: Tensor) -> None:
        """Args:
        features: (K, C), as TCM takes them.
        class_token_ids: int64 (K, N1), from ``tokenize_prompts``.
        """
        super().__init__()
        self.register_buffer("features", features.detach().clone())
        self.register_buffer("class_token_ids", class_token_ids.detach().clone())

    def embeddings(self, tcm: TCM) -> Tensor:
        """Return the class embeddings (K, C)."""
        return self.features

    def set_class_names(self, class_names: Sequence[str], *, template: str) -> None:
        """Raise ValueError: constants have no tower that could read names."""
        raise ValueError(
            "class names: this model holds the text features of its classes as constants and "
            "has no text tower to read others; use the checkpoint that it was made from"
        )


def take_text_side(backbone: nn.Module, *, is_needed: bool) -> TextSide | None:
    """Return what a backbone has to be prompted by text, which it gives away once.

    Raises:
        ValueError: it is needed, and there is none, or its weights are unusable.
    """
    # Taken in any case, so that nothing keeps it in memory.
    text_side: TextSide | None = getattr(backbone, "take_text_side", lambda: None)()
    if not is_needed:
        return None
    if text_side is None:
        raise ValueError(
            f"backbone: {type(backbone).__name__} has no text tower for TCM; use CLIP's "
            "(MODEL.BACKBONE.NAME build_clip_resnet_backbone), or switch TCM off "
            "(MODEL.TCM.ENABLED False; Python: model.tcm and model.class_text None)"
        )
    if text_side.problem:
        raise ValueError(text_side.problem)
    return text_side


def check_prompts(class_prompts: Sequence[str], num_classes: int) -> None:
    """Raise ValueError when the prompts are not one per output of the head."""
    if len(class_prompts) != num_classes:
        raise ValueError(
            f"class prompts: expected {num_classes} (outputs of the head), got "
            f"{len(class_prompts)}; set MODEL.TCM.CLASS_NAMES and MODEL.ROTATED_HEAD.NUM_CLASSES "
            "(Python: model.class_text.class_names and model.head.num_classes) to the classes of "
            "the data"
        )


def check_text_is_the_same_for_all_images(tcm: TCM) -> None:
    """Raise ValueError where the prompts of the text tower depend on the image."""
    if tcm.text_needs_image:
        raise ValueError(
            "class embeddings: with MODEL.TCM.PROMPT_GENERATOR 'image' they differ from image "
            "to image, so that they cannot be kept or fixed and the text tower is needed; "
            "train with 'meta' or 'none'"
        )


def fix_class_text(
    text: ClassText | FixedClassText,
    tcm: TCM,
    features: Tensor | None = None,
    class_token_ids: Tensor | None = None,
) -> FixedClassText:
    """Return the class embeddings as constants; ``tcm`` drops what only serves to make them.

    Args:
        text: what they are made of, in evaluation mode.
        tcm: changed in place.
        features: (K, C) to hold, as a state dict has them; None takes those of ``text``.
        class_token_ids: int64 (K, N1), of which classes they are; goes with ``features``.

    Raises:
        ValueError: prompts depend on the image, or the features are of another shape or of other
            classes.
    """
    check_text_is_the_same_for_all_images(tcm)
    if features is None or class_token_ids is None:
        features, class_token_ids = text.embeddings(tcm), text.class_token_ids
    shape = (len(text.class_token_ids), len(tcm.text_scale))
    if tuple(features.shape) != shape:
        raise ValueError(
            f"fixed text: expected features of {shape[0]} classes and width {shape[1]}, got "
            f"shape {tuple(features.shape)}; is the configuration the one it was trained with?"
        )
    names, own_names = decode_prompts(class_token_ids), decode_prompts(text.class_token_ids)
    if names != own_names:
        raise ValueError(
            f"class prompts: the text features are constants, made for {', '.join(names)}, and "
            f"cannot become those of {', '.join(own_names)}; set MODEL.TCM.CLASS_NAMES and "
            "PROMPT_TEMPLATE to the former, or use the checkpoint that they were made from"
        )
    tcm.drop_text_parts()
    fixed = FixedClassText(features.to(tcm.text_scale), class_token_ids)
    return fixed.to(tcm.text_scale.device).eval()
