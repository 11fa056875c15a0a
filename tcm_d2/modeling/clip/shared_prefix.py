"""CLIP's text transformer for sequences that begin alike.

The start token and the learnable context are the same for all classes, and attention is causal: the
beginning never looks at the class name behind it. So it is computed once and not per class, 70 of
77 tokens; 15 classes cost 175 tokens instead of 1155, with the same result.

Shape letters: B groups of sequences (images, or 1), K sequences per group, P tokens of the common
beginning, S tokens behind it, D token width, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def encode_with_shared_prefix(
    blocks: Sequence[nn.Module], prefix: Tensor, suffixes: Tensor
) -> Tensor:
    """Return the transformer's output (B, K, S, D) at the tokens behind the common beginning.

    Args:
        blocks: open_clip's residual attention blocks; their attention is made causal here.
        prefix: (B, P, D) embedded tokens that the K sequences of a group begin with.
        suffixes: (B, K, S, D) embedded tokens of each sequence behind it.
    """
    num_prefix, num_suffix = prefix.shape[1], suffixes.shape[2]
    shape = (num_suffix, num_prefix + num_suffix)
    mask = torch.ones(shape, dtype=torch.bool, device=prefix.device).tril(num_prefix)  # (S, P + S)
    last = len(blocks) - 1
    for index, block in enumerate(blocks):
        prefix_query, prefix_key, prefix_value = _project(block, prefix)  # (B, h, P, D/h)
        query, key, value = _project(block, suffixes.flatten(0, 1))  # (B K, h, S, D/h)
        keys = _join(prefix_key, key)  # (B K, h, P + S, D/h)
        values = _join(prefix_value, value)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        suffixes = _finish(block, suffixes, attended.unflatten(0, suffixes.shape[:2]))
        if index < last:  # nobody looks at the beginning any more after that
            attended = F.scaled_dot_product_attention(
                prefix_query, prefix_key, prefix_value, is_causal=True
            )
            prefix = _finish(block, prefix, attended)
    return suffixes


def _project(block: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value (N, h, T, D/h) of tokens (N, T, D)."""
    attention = block.attn
    joint = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    heads = joint.unflatten(-1, (3, attention.num_heads, -1))  # (N, T, 3, h, D/h)
    query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def _join(prefix: Tensor, suffix: Tensor) -> Tensor:
    """Return (B K, h, P + S, d): each group's (B, h, P, d) before each of its K (B K, h, S, d)."""
    repeated = prefix.repeat_interleave(len(suffix) // len(prefix), dim=0)
    return torch.cat([repeated, suffix], dim=2)


def _finish(block: nn.Module, tokens: Tensor, attended: Tensor) -> Tensor:
    """Return the block's output for tokens (..., T, D) and what they gathered (..., h, T, D/h)."""
    gathered = attended.transpose(-3, -2).flatten(-2)
    tokens = tokens + block.ls_1(block.attn.out_proj(gathered))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
