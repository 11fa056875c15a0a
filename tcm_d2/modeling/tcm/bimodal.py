"""Bimodal similarity matching: class embeddings moved along the image's global token.

Shape letters: N images, K classes, C joint width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# How the matrix between the modalities starts: as no change, or filled with ones.
BIMODAL_INITS = ("identity", "ones")


class BimodalMatching(nn.Module):
    """Add to each class embedding the image's direction, by how alike the two are.

    FastTCM (arXiv 2308.10408), where it makes up for class prompts that do not see the image:
    g~ = normalise(g W), a_k = <t^_k, g~>, t_k = t^_k + a_k g~ with t^ = normalise(t).

    Deliberate difference from the published code, whose widths do not fit (1024 against 512) and
    whose W starts with ones everywhere: g~ then is the same vector for every image but for its
    sign. Here W is C x C and starts as told.

    Attributes:
        weight: (C, C), W.
    """

    def __init__(self, *, joint_width: int, init: str) -> None:
        """Args:
        joint_width: C.
        init: "identity" or "ones".

        Raises:
            ValueError: ``init`` is neither.
        """
        super().__init__()
        if init not in BIMODAL_INITS:
            raise ValueError(
                f"bimodal_matching_init: expected one of {', '.join(BIMODAL_INITS)}, got {init!r}"
            )
        start = torch.eye(joint_width) if init == "identity" else torch.ones(joint_width)
        self.weight = nn.Parameter(start.expand(joint_width, joint_width).clone())

    def forward(self, unit_text: Tensor, global_NC: Tensor) -> Tensor:
        """Return the class embeddings of each image, (N, K, C).

        Args:
            unit_text: t^, class embeddings of length 1, (K, C) or (N, K, C).
            global_NC: global tokens of any length.
        """
        direction_NC = F.normalize(global_NC @ self.weight, dim=-1)
        likeness_NK = (unit_text * direction_NC[:, None]).sum(dim=-1)
        return unit_text + likeness_NK[..., None] * direction_NC[:, None]
