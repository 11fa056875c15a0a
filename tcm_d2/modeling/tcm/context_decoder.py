"""A small pre-norm transformer decoder that lets one set of tokens look at another.

Shape letters: B images, Q query tokens, M memory tokens, C joint width, E decoder width, h heads.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# Hidden width of the feed-forward block over the decoder's width.
FEED_FORWARD_RATIO = 4
# Deviation of the truncated-normal weights, as customary for vision transformers.
WEIGHT_INIT_STD = 0.02


class ContextDecoder(nn.Module):
    """Updates queries from a memory, both in the joint space; a residual for the caller to scale.

    The context decoder of DenseCLIP (arXiv 2112.01518, section 3.3) and TCM.
    """

    def __init__(
        self, *, joint_width: int, width: int, num_heads: int, num_layers: int, dropout: float
    ) -> None:
        """Args:
        joint_width: C.
        width: E, divisible by ``num_heads``.
        num_heads: h.
        num_layers: decoder layers.
        dropout: probability, after each attention's and feed-forward's layers.

        Raises:
            ValueError: ``width`` is not divisible by ``num_heads``.
        """
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"decoder width: expected a multiple of the {num_heads} heads, got {width}"
            )
        self.query_proj = nn.Sequential(nn.LayerNorm(joint_width), nn.Linear(joint_width, width))
        self.memory_proj = nn.Sequential(
            nn.LayerNorm(joint_width), nn.Linear(joint_width, width), nn.LayerNorm(width)
        )
        self.layers = nn.ModuleList(
            ContextDecoderLayer(width=width, num_heads=num_heads, dropout=dropout)
            for _ in range(num_layers)
        )
        self.out_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, joint_width))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=WEIGHT_INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Return the update of the queries (B, Q, C).

        Args:
            queries: (B, Q, C).
            memory: (B, M, C).
        """
        x = self.query_proj(queries)  # (B, Q, E)
        memory = self.memory_proj(memory)  # (B, M, E)
        for layer in self.layers:
            x = layer(x, memory)
        return self.out_proj(x)


class ContextDecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, each behind a layer norm and a shortcut.

    The memory is not normalised again. ``norm1`` .. ``norm3`` are the only parameters of the model
    with "norm" in their name, which is what the optimizer goes by to leave out weight decay.
    """

    def __init__(self, *, width: int, num_heads: int, dropout: float) -> None:
        """Args as those of ContextDecoder."""
        super().__init__()
        self.self_attn = Attention(width=width, num_heads=num_heads, dropout=dropout)
        self.cross_attn = Attention(width=width, num_heads=num_heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, FEED_FORWARD_RATIO * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(FEED_FORWARD_RATIO * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Return the updated tokens (B, Q, E) from tokens (B, Q, E) and memory (B, M, E)."""
        normalised = self.norm1(x)
        x = x + self.self_attn(normalised, normalised)
        x = x + self.cross_attn(self.norm2(x), memory)
        return x + self.dropout(self.mlp(self.norm3(x)))


class Attention(nn.Module):
    """Multi-head attention whose query, key and value projections have no bias."""

    def __init__(self, *, width: int, num_heads: int, dropout: float) -> None:
        """Args as those of ContextDecoder; dropout follows the output projection."""
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.out_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Return what queries (B, Q, E) gather from memory (B, M, E): (B, Q, E)."""
        query = self._split_heads(self.q_proj(queries))
        key, value = self._split_heads(self.k_proj(memory)), self._split_heads(self.v_proj(memory))
        gathered = F.scaled_dot_product_attention(query, key, value)  # (B, h, Q, E/h)
        return self.dropout(self.out_proj(gathered.transpose(1, 2).flatten(2)))

    def _split_heads(self, tokens: Tensor) -> Tensor:
        """Return (B, h, T, E/h) from (B, T, E)."""
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
