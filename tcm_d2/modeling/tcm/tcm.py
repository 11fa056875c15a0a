"""TCM: turn CLIP into a detector's feature extractor by matching places with class names.

Shape letters: N images, K classes, C joint width, D token width, N2 context vectors, H x W the
stride-32 grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from tcm_d2.config.registries import PART_REGISTRY
from tcm_d2.modeling.tcm.bimodal import BimodalMatching
from tcm_d2.modeling.tcm.context_decoder import ContextDecoder
from tcm_d2.modeling.tcm.matching import score_map
from tcm_d2.modeling.tcm.prompt import LanguagePromptGenerator

PROMPT_GENERATORS = ("none", "image", "meta")
# Deviation of the truncated-normal start of the context and of the meta query.
CONTEXT_INIT_STD = 1.0


@PART_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class TCMConfig:
    """What the TCM module is built from, besides CLIP's widths.

    Attributes:
        decoder_width: width of both context decoders.
        decoder_heads: their attention heads.
        decoder_layers: their layers.
        decoder_dropout: their dropout probability, in [0, 1).
        visual_scale_init: start of the visual prompt's scale s.
        text_scale_init: start of every entry of the text update's scale gamma.
        temperature: tau; the score map is cosine / tau.
        prompt_generator: "none" (as published for DOTA), "image" (a prompt from each image's global
            token, as in the CVPR paper) or "meta" (one from a learnt query: FastTCM).
        bimodal_matching: move class embeddings along each image's global token (FastTCM).
        bimodal_matching_init: start of its matrix, "identity" or "ones".
        visual_prompt: add what the places gather from the class embeddings; False to tell what it
            brings. Earlier copies name neither this nor the next.
        text_update: move the class embeddings by what they gather from the image; likewise.
    """

    decoder_width: int
    decoder_heads: int
    decoder_layers: int
    decoder_dropout: float
    visual_scale_init: float
    text_scale_init: float
    temperature: float
    prompt_generator: str
    bimodal_matching: bool
    bimodal_matching_init: str
    visual_prompt: bool = True
    text_update: bool = True

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a Detectron2 configuration."""
        tcm = cfg.MODEL.TCM
        return {name: tcm[name.upper()] for name in cls.__dataclass_fields__}


class TCMOutput(NamedTuple):
    """What TCM makes of an image.

    Attributes:
        score_map_NKHW: cosine over temperature of each place with each class; raw.
        text_NKC: class embeddings updated by the image.
        dense_NCHW: dense tokens with the visual prompt added.
    """

    score_map_NKHW: Tensor
    text_NKC: Tensor
    dense_NCHW: Tensor


class TCM(nn.Module):
    """Visual prompt, text update and instance-language matching (arXiv 2302.14338, section 3).

    It owns what is learnt on the text side, too: the context and, where asked for, the language
    prompt generator with its meta query. The caller runs the text tower with them.

    FastTCM (arXiv 2308.10408) is "meta" with bimodal matching: class embeddings then depend on
    weights only, and see the image after the text tower instead of before it.

    Deliberate difference from the published code: that builds the prompt generator and bypasses
    it; with "none" there is none.

    Attributes:
        context: (N2, D), shared by all classes; None once the text is fixed.
        visual_scale: () weight of the visual prompt (s).
        text_scale: (C,) weight of the text update (gamma).
        prompt_generator: tokens of the joint space -> prompts of the text tower, or None.
        meta_query: (C,) what the prompt generator gets in place of global tokens, or None.
        bimodal_matching: class embeddings and global tokens -> embeddings per image, or None.
        visual_decoder: what places gather from the class embeddings, or None.
        text_decoder: what class embeddings gather from the image, or None.
    """

    context: nn.Parameter | None
    prompt_generator: LanguagePromptGenerator | None
    meta_query: nn.Parameter | None
    bimodal_matching: BimodalMatching | None

    def __init__(
        self, config: TCMConfig, *, joint_width: int, token_width: int, num_context: int
    ) -> None:
        """Args:
        config: the module's own settings.
        joint_width: C.
        token_width: D.
        num_context: N2.

        Raises:
            ValueError: ``prompt_generator`` or ``bimodal_matching_init`` is none of these, or
                ``temperature`` is not positive.
        """
        super().__init__()
        if config.prompt_generator not in PROMPT_GENERATORS:
            raise ValueError(
                f"prompt_generator: expected one of {', '.join(PROMPT_GENERATORS)}, got "
                f"{config.prompt_generator!r}"
            )
        if not config.temperature > 0:
            raise ValueError(f"temperature: expected a positive number, got {config.temperature}")
        self.temperature = config.temperature
        self.context = nn.Parameter(torch.empty(num_context, token_width))
        nn.init.trunc_normal_(self.context, std=CONTEXT_INIT_STD)
        self.visual_scale = nn.Parameter(torch.tensor(float(config.visual_scale_init)))
        self.text_scale = nn.Parameter(torch.full((joint_width,), float(config.text_scale_init)))
        # Scales stay, without a gradient, where their update is left out.
        self.visual_scale.requires_grad_(config.visual_prompt)
        self.text_scale.requires_grad_(config.text_update)
        self.visual_decoder, self.text_decoder = (
            ContextDecoder(
                joint_width=joint_width,
                width=config.decoder_width,
                num_heads=config.decoder_heads,
                num_layers=config.decoder_layers,
                dropout=config.decoder_dropout,
            )
            if is_used
            else None
            for is_used in (config.visual_prompt, config.text_update)
        )
        self.prompt_generator, self.meta_query, self.bimodal_matching = None, None, None
        if config.prompt_generator != "none":
            self.prompt_generator = LanguagePromptGenerator(
                joint_width=joint_width, token_width=token_width
            )
        if config.prompt_generator == "meta":
            self.meta_query = nn.Parameter(torch.empty(joint_width))
            nn.init.trunc_normal_(self.meta_query, std=CONTEXT_INIT_STD)
        if config.bimodal_matching:
            self.bimodal_matching = BimodalMatching(
                joint_width=joint_width, init=config.bimodal_matching_init
            )

    @property
    def text_needs_image(self) -> bool:
        """Whether the prompts of the text tower depend on the image."""
        return self.prompt_generator is not None and self.meta_query is None

    def text_prompt(self, global_NC: Tensor | None) -> Tensor | None:
        """Return the prompts (B, D) that the text tower adds to its tokens; None for no prompt.

        Args:
            global_NC: global tokens (N, C), for B = N prompts; not read, and B = 1, where
                `text_needs_image` is False.
        """
        if self.prompt_generator is None:
            return None
        source = global_NC if self.meta_query is None else self.meta_query[None]
        return self.prompt_generator(source)

    def prepare_text(self, text: Tensor) -> Tensor:
        """Return the text tower's class embeddings as `forward` takes them.

        Args:
            text: (K, C) or (N, K, C).
        """
        return text if self.bimodal_matching is None else F.normalize(text, dim=-1)

    def drop_text_parts(self) -> None:
        """Remove what only serves to make class embeddings: for a model that has them fixed."""
        assert not self.text_needs_image
        self.context = self.prompt_generator = self.meta_query = None

    def forward(self, global_NC: Tensor, dense_NCHW: Tensor, text: Tensor) -> TCMOutput:
        """Match every place of the images with every class.

        Args:
            global_NC: global tokens (N, C).
            dense_NCHW: dense tokens (N, C, H, W).
            text: class embeddings from `prepare_text`, (K, C) for all images alike or (N, K, C).
        """
        if self.bimodal_matching is not None:
            text = self.bimodal_matching(text, global_NC)
        text_NKC = text.expand(global_NC.shape[0], -1, -1)
        dense_NLC = dense_NCHW.flatten(2).transpose(1, 2)  # (N, HW, C)
        memory = torch.cat([global_NC[:, None], dense_NLC], dim=1)  # (N, 1 + HW, C)
        prompted_NCHW = dense_NCHW
        if self.visual_decoder is not None:  # sees the class embeddings before their update
            prompted_NLC = dense_NLC + self.visual_scale * self.visual_decoder(dense_NLC, text_NKC)
            prompted_NCHW = prompted_NLC.transpose(1, 2).unflatten(-1, dense_NCHW.shape[-2:])
        if self.text_decoder is not None:
            text_NKC = text_NKC + self.text_scale * self.text_decoder(text_NKC, memory)
        scores = score_map(prompted_NCHW, text_NKC, temperature=self.temperature)
        return TCMOutput(scores, text_NKC, prompted_NCHW)
