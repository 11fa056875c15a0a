"""CLIP's frozen text tower behind a learnable context.

Shape letters: K classes, B images, D token width, C joint width, N1 token ids kept per class, N2
context vectors, P = 1 + N2 tokens that all classes begin with.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import open_clip
import torch
from open_clip.model import CLIP
from torch import Tensor, nn

from tcm_d2.modeling.clip.shared_prefix import encode_with_shared_prefix

# Where a class name goes in a template.
LABEL_FIELD = "{label}"


class PromptedTextEncoder(nn.Module):
    """Embeds classes as [start] + learnable context + the rest of the class's tokens.

    Context optimisation (CoOp, arXiv 2109.01134, eq. 3) as used by TCM: one context for all
    classes. The tower is frozen; gradients flow through it to the context and the image prompt.
    Parameters keep CLIP's names.
    """

    def __init__(self, clip: CLIP, class_token_ids: Tensor) -> None:
        """Take over and freeze the text tower of ``clip``.

        Args:
            clip: an open_clip model.
            class_token_ids: int64 (K, N1), from ``tokenize_prompts``.
        """
        super().__init__()
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.transformer = clip.transformer
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        # Not in the state dict: the classes come from the configuration, not from a checkpoint.
        self.register_buffer("class_token_ids", class_token_ids, persistent=False)

    @property
    def num_context(self) -> int:
        """N2: how many context vectors fill the tower's sequence."""
        return self.positional_embedding.shape[0] - self.class_token_ids.shape[1]

    def forward(self, context: Tensor, image_prompt: Tensor | None) -> Tensor:
        """Return class embeddings, not normalised: (K, C), or (B, K, C) with an image prompt.

        Args:
            context: (N2, D), shared by all classes.
            image_prompt: (B, D), added to every token embedding of an image's classes, or None.
        """
        tokens = self.token_embedding(self.class_token_ids)  # (K, N1, D)
        # All classes begin with the start token and the context.
        prefix = torch.cat([tokens[0, :1], context.to(tokens.dtype)])[None]  # (1, P, D)
        suffixes = tokens[None, :, 1:]  # (1, K, N1 - 1, D)
        if image_prompt is not None:
            prefix = prefix + image_prompt[:, None]  # (B, P, D)
            suffixes = suffixes + image_prompt[:, None, None]  # (B, K, N1 - 1, D)
        num_prefix = prefix.shape[1]
        suffixes = encode_with_shared_prefix(
            self.transformer.resblocks,
            prefix + self.positional_embedding[:num_prefix],
            suffixes + self.positional_embedding[num_prefix : num_prefix + suffixes.shape[2]],
        )
        # End-of-text has the highest id of the vocabulary. The final layer norm is per position:
        # only the one position needed is normalised.
        end_index = self.class_token_ids.argmax(dim=-1) - 1  # (K,)
        x = suffixes[:, torch.arange(suffixes.shape[1], device=suffixes.device), end_index]
        features = self.ln_final(x) @ self.text_projection  # (B, K, C)
        return features[0] if image_prompt is None else features


def format_prompts(class_names: Sequence[str], template: str) -> list[str]:
    """Put each class name into ``template`` in place of ``{label}``.

    Raises:
        ValueError: the template has no ``{label}``.
    """
    if LABEL_FIELD not in template:
        raise ValueError(
            f"prompt template: expected text with {LABEL_FIELD!r} in it, got {template!r}; "
            f"use {LABEL_FIELD!r} alone for bare class names"
        )
    return [template.replace(LABEL_FIELD, name) for name in class_names]


@functools.cache
def _load_tokenizer() -> open_clip.SimpleTokenizer:
    """Return CLIP's tokenizer; reading its vocabulary takes most of a second."""
    return open_clip.SimpleTokenizer()


def tokenize_prompts(prompts: Sequence[str], *, tokens_per_class: int, vocab_size: int) -> Tensor:
    """Tokenise prompts with CLIP's byte-pair encoding: int64 (K, N1), zero-padded.

    The vocabulary ships with open_clip; nothing is downloaded.

    Args:
        prompts: one text per class.
        tokens_per_class: N1, start and end of text included.
        vocab_size: rows of the tower's token embedding.

    Raises:
        ValueError: there is no prompt, one is empty or does not fit into N1 tokens, or the
            vocabulary is too small for the ids.
    """
    if len(prompts) == 0:
        raise ValueError("class prompts: expected at least one class, got none")
    tokenizer = _load_tokenizer()
    for prompt in prompts:
        num_tokens = len(tokenizer.encode(prompt)) + 2
        if num_tokens == 2:
            raise ValueError(f"class prompts: expected text, got {prompt!r}")
        if num_tokens > tokens_per_class:
            raise ValueError(
                f"class prompt {prompt!r}: needs {num_tokens} tokens (start and end included), got "
                f"room for {tokens_per_class}; shorten the name, or before training raise "
                f"MODEL.TCM.TOKENS_PER_CLASS to {num_tokens} or more"
            )
    if tokenizer.eot_token_id >= vocab_size:
        raise ValueError(
            f"vocabulary size: expected at least {tokenizer.eot_token_id + 1} (CLIP's), got "
            f"{vocab_size}; set MODEL.CLIP.VOCAB_SIZE"
        )
    return tokenizer(list(prompts), context_length=tokens_per_class)


def tokenize_words(text: str) -> list[int]:
    """Return the token ids of a text, without start and end of text."""
    ids: list[int] = _load_tokenizer().encode(text)
    return ids


def decode_prompts(class_token_ids: Tensor) -> list[str]:
    """Return the text of each class, as the tokenizer normalises it (in lower case).

    Args:
        class_token_ids: int64 (K, N1), from ``tokenize_prompts``.

    Raises:
        ValueError: these are no token ids.
    """
    tokenizer = _load_tokenizer()
    rows = class_token_ids.tolist()
    if not all(row and 0 <= min(row) and max(row) <= tokenizer.eot_token_id for row in rows):
        raise ValueError(
            f"class token ids: expected (K, N1) of 0 to {tokenizer.eot_token_id}, got shape "
            f"{tuple(class_token_ids.shape)} with other numbers; is the file damaged?"
        )
    # Start of text comes first; end of text has the highest id.
    return [tokenizer.decode(row[1 : row.index(max(row))]).strip() for row in rows]
