"""The classes as text: their prompts, and what CLIP's text tower makes of them.

Shape letters: K classes, N images, C joint width, D token width, N1 token ids kept per class.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from open_clip.model import CLIP
from torch import Tensor

from tcm_d2.config.registries import PART_REGISTRY
from tcm_d2.layers.kept_tensor import KeptTensor
from tcm_d2.modeling.clip.text import (
    PromptedTextEncoder,
    format_prompts,
    tokenize_prompts,
    tokenize_words,
)
from tcm_d2.modeling.tcm.tcm import TCM

logger = logging.getLogger(__name__)


@PART_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class ClassTextConfig:
    """What the text tower reads for the classes.

    Attributes:
        class_names: in label order.
        template: text put around a name in place of ``{label}``.
        tokens_per_class: N1, start and end of text included; the context takes the other places.
        context_words: what the context starts from, in as many vectors as tokens; "" random ones.
            Earlier copies do not name it.
    """

    class_names: Sequence[str]
    template: str
    tokens_per_class: int
    context_words: str = ""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a Detectron2 configuration."""
        tcm = cfg.MODEL.TCM
        return {
            "class_names": tcm.CLASS_NAMES,
            "template": tcm.PROMPT_TEMPLATE,
            "tokens_per_class": tcm.TOKENS_PER_CLASS,
            "context_words": tcm.CONTEXT_WORDS,
        }


class ClassText(PromptedTextEncoder):
    """Class embeddings from CLIP's text tower, kept in evaluation until a weight changes.

    Attributes:
        trained_prompts: the prompts of the configuration, which later changes leave alone.
    """

    def __init__(self, clip: CLIP, config: ClassTextConfig, *, num_classes: int) -> None:
        """Take over and freeze the text tower of ``clip``.

        Raises:
            ValueError: the prompts do not fit the tower, or are not one per output of the head.
        """
        if len(config.class_names) != num_classes:
            raise ValueError(
                f"class prompts: expected {num_classes} (outputs of the head), got "
                f"{len(config.class_names)}; set MODEL.TCM.CLASS_NAMES and MODEL.ROTATED_HEAD."
                "NUM_CLASSES (Python: model.class_text.class_names and model.head.num_classes) to "
                "the classes of the data"
            )
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
        self.trained_prompts = prompts
        self._warn_of_unknown_words(config.class_names)
        self._kept = KeptTensor()
        self._context_ids: list[int] | None = None
        if config.context_words:
            self._context_ids = tokenize_words(config.context_words)
            if len(self._context_ids) > super().num_context:
                raise ValueError(
                    f"context words: expected at most {super().num_context} tokens beside those "
                    f"of the class, got {len(self._context_ids)} ({config.context_words!r}); set "
                    "MODEL.TCM.CONTEXT_WORDS or TOKENS_PER_CLASS"
                )

    @property
    def num_context(self) -> int:
        """N2: how many context vectors stand before a class."""
        return super().num_context if self._context_ids is None else len(self._context_ids)

    def initial_context(self) -> Tensor | None:
        """Return what the context starts from (N2, D), or None for random numbers."""
        if self._context_ids is None:
            return None
        return self.token_embedding.weight[self._context_ids].detach()

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
            class_names: as many as the head has outputs.
            template: text around a name, see ``format_prompts``; the one of the training, usually.

        Raises:
            ValueError: the names do not fit the tower.
        """
        self.class_token_ids = tokenize_prompts(
            format_prompts(class_names, template),
            tokens_per_class=self.class_token_ids.shape[1],
            vocab_size=self.token_embedding.num_embeddings,
        ).to(self.class_token_ids.device)
        self._warn_of_unknown_words(class_names)

    def _warn_of_unknown_words(self, class_names: Sequence[str]) -> None:
        """Name the classes of which the tower knows no or not every word.

        Of the embedded CLIP's token embedding only the rows of words in its captions are not zero.
        """
        if self.token_embedding.weight.is_meta:  # names and shapes alone, no values
            return
        rows = self.token_embedding.weight[self.class_token_ids]  # (K, N1, D)
        is_unknown = (rows == 0).all(dim=2).any(dim=1).tolist()
        names = [name for name, unknown in zip(class_names, is_unknown, strict=True) if unknown]
        if names:
            logger.warning(
                "class names: words of %s were not in the captions that the text tower has "
                "learnt from, and mean nothing to it; choose others, or another CLIP",
                ", ".join(repr(name) for name in names),
            )

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


def check_text_is_the_same_for_all_images(tcm: TCM) -> None:
    """Raise ValueError where the prompts of the text tower depend on the image."""
    if tcm.text_needs_image:
        raise ValueError(
            "class embeddings: with MODEL.TCM.PROMPT_GENERATOR 'image' they differ from image "
            "to image, so that they cannot be kept or fixed and the text tower is needed; "
            "train with 'meta' or 'none'"
        )
