"""CLIP's attention pool with every token kept.

Shape letters: N images, E channels of res5, C joint width, H x W the run-time grid, G x G the
stored grid, L = 1 + H * W tokens, h heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d
from torch import Tensor, nn


class AttentionPoolOutput(NamedTuple):
    """Tokens in the joint space of images and text, not normalised."""

    global_NC: Tensor
    dense_NCHW: Tensor


class DenseAttentionPool(nn.Module):
    """Multi-head attention over the mean token and all spatial tokens; all outputs are kept.

    CLIP keeps only the output of the mean token. Here every spatial token attends likewise, which
    gives features comparable with text at each place (DenseCLIP, arXiv 2112.01518; TCM, arXiv
    2302.14338, section 3). Parameters keep CLIP's names below ``visual.attnpool.``.

    Deliberate difference from TCM: its grid is fixed when the model is built; here the positional
    embedding is resized to whatever grid comes, so any input size works.
    """

    def __init__(self, pool: AttentionPool2d) -> None:
        """Take over the parameters of ``pool``, CLIP's own attention pool."""
        super().__init__()
        self.positional_embedding = pool.positional_embedding
        self.q_proj, self.k_proj = pool.q_proj, pool.k_proj
        self.v_proj, self.c_proj = pool.v_proj, pool.c_proj
        self.num_heads = pool.num_heads

    def forward(self, res5: Tensor) -> AttentionPoolOutput:
        """Return the global token (N, C) and the dense tokens (N, C, H, W).

        Args:
            res5: (N, E, H, W), any H and W.
        """
        height, width = res5.shape[-2:]
        tokens = res5.flatten(2).transpose(1, 2)  # (N, HW, E)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)  # (N, L, E)
        tokens = tokens + self.embedding_for(height, width).to(tokens.dtype)
        query, key, value = (
            proj(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (N, h, L, E/h)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        joint = self.c_proj(attended.transpose(1, 2).flatten(2))  # (N, L, C)
        dense_NCHW = joint[:, 1:].transpose(1, 2).unflatten(-1, (height, width))
        return AttentionPoolOutput(joint[:, 0], dense_NCHW)

    def embedding_for(self, height: int, width: int) -> Tensor:
        """Return the positional embedding (1 + height * width, E) for a grid."""
        return resize_positional_embedding(self.positional_embedding, (height, width))


def resize_positional_embedding(embedding: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Resize a positional embedding bicubically to a grid; row 0, the global token's, is kept.

    Gradients flow. An equal grid returns ``embedding`` itself, but in graphs that are compiled.

    Args:
        embedding: (1 + G * G, E), rows of the grid in row-major order.
        grid_hw: height and width of the grid.

    Returns:
        (1 + height * width, E).

    Raises:
        ValueError: the embedding's rows are not one plus a square.
    """
    # int: jit tracing, which counts FLOPs, gives sizes as tensors.
    grid_side = round((int(embedding.shape[0]) - 1) ** 0.5)
    if embedding.dim() != 2 or grid_side < 1 or grid_side**2 + 1 != embedding.shape[0]:
        raise ValueError(
            "positional embedding: expected shape (1 + G * G, channels), got "
            f"{tuple(embedding.shape)}; is it the attention pool's?"
        )
    # A graph for any size cannot ask; to its own grid a resize changes nothing.
    if not torch.compiler.is_compiling() and grid_hw == (grid_side, grid_side):
        return embedding
    grid = embedding[1:].T.reshape(1, -1, grid_side, grid_side)
    grid = F.interpolate(grid, size=grid_hw, mode="bicubic", align_corners=False)
    return torch.cat([embedding[:1], grid[0].flatten(1).T])
