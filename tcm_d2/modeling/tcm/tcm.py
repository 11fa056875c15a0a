"""TCM: turn CLIP into a detector's feature extractor by matching places with class names.

Shape letters: N images, K classes, C joint width, D token width, N2 context vectors, H x W the
stride-32 grid.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tcm_d2.modeling.tcm.context_decoder import ContextDecoder
from tcm_d2.modeling.tcm.matching import score_map
from tcm_d2.modeling.tcm.prompt import LanguagePromptGenerator

PROMPT_GENERATORS = ("none", "image")
# Deviation of the context's truncated-normal start.
CONTEXT_INIT_STD = 1.0


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
    prompt generator. The caller runs the text tower with them.

    Deliberate difference from the published code: that builds the prompt generator and bypasses
    it; with "none" there is none.

    Attributes:
        context: (N2, D), shared by all classes.
        visual_scale: () weight of the visual prompt (s).
        text_scale: (C,) weight of the text update (gamma).
        prompt_generator: global tokens -> prompts of the text tower, or None.
    """

    prompt_generator: LanguagePromptGenerator | None

    def __init__(
        self,
        *,
        joint_width: int,
        token_width: int,
        num_context: int,
        decoder_width: int,
        decoder_heads: int,
        decoder_layers: int,
        decoder_dropout: float,
        visual_scale_init: float,
        text_scale_init: float,
        temperature: float,
        prompt_generator: str,
    ) -> None:
        """Args:
        joint_width: C.
        token_width: D.
        num_context: N2.
        decoder_width: width of both context decoders.
        decoder_heads: their heads.
        decoder_layers: their layers.
        decoder_dropout: their dropout probability.
        visual_scale_init: start of ``visual_scale``.
        text_scale_init: start of every entry of ``text_scale``.
        temperature: tau of the score map.
        prompt_generator: "none" or "image".

        Raises:
            ValueError: ``prompt_generator`` is neither, or ``temperature`` is not positive.
        """
        super().__init__()
        if prompt_generator not in PROMPT_GENERATORS:
            raise ValueError(
                f"prompt_generator: expected one of {', '.join(PROMPT_GENERATORS)}, got "
                f"{prompt_generator!r}"
            )
        if not temperature > 0:
            raise ValueError(f"temperature: expected a positive number, got {temperature}")
        self.temperature = temperature
        self.context = nn.Parameter(torch.empty(num_context, token_width))
        nn.init.trunc_normal_(self.context, std=CONTEXT_INIT_STD)
        self.visual_scale = nn.Parameter(torch.tensor(float(visual_scale_init)))
        self.text_scale = nn.Parameter(torch.full((joint_width,), float(text_scale_init)))
        self.visual_decoder, self.text_decoder = (
            ContextDecoder(
                joint_width=joint_width,
                width=decoder_width,
                num_heads=decoder_heads,
                num_layers=decoder_layers,
                dropout=decoder_dropout,
            )
            for _ in range(2)
        )
        self.prompt_generator = None
        if prompt_generator == "image":
            self.prompt_generator = LanguagePromptGenerator(
                joint_width=joint_width, token_width=token_width
            )

    def forward(self, global_NC: Tensor, dense_NCHW: Tensor, text: Tensor) -> TCMOutput:
        """Match every place of the images with every class.

        Args:
            global_NC: global tokens (N, C).
            dense_NCHW: dense tokens (N, C, H, W).
            text: class embeddings, (K, C) for all images alike or (N, K, C).
        """
        text_NKC = text.expand(len(global_NC), -1, -1)
        dense_NLC = dense_NCHW.flatten(2).transpose(1, 2)  # (N, HW, C)
        memory = torch.cat([global_NC[:, None], dense_NLC], dim=1)  # (N, 1 + HW, C)
        visual_update = self.visual_decoder(dense_NLC, text_NKC)
        text_update = self.text_decoder(text_NKC, memory)
        text_NKC = text_NKC + self.text_scale * text_update
        prompted_NLC = dense_NLC + self.visual_scale * visual_update
        prompted_NCHW = prompted_NLC.transpose(1, 2).unflatten(-1, dense_NCHW.shape[-2:])
        scores = score_map(prompted_NCHW, text_NKC, temperature=self.temperature)
        return TCMOutput(scores, text_NKC, prompted_NCHW)
