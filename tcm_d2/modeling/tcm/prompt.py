"""Language prompt generator: a token of the joint space as a prompt for the text tower.

Shape letters: B prompts, C joint width, D token width of the text tower.
"""

from __future__ import annotations

from torch import Tensor, nn


class LanguagePromptGenerator(nn.Module):
    """LayerNorm - Linear - ReLU - LayerNorm - Linear, from the joint space to token width.

    TCM (arXiv 2302.14338, section 3.2, eq. 5) feeds it global tokens, FastTCM (arXiv 2308.10408) a
    learnt query.
    """

    def __init__(self, *, joint_width: int, token_width: int) -> None:
        """Args:
        joint_width: C.
        token_width: D.
        """
        super().__init__()
        self.prompt_proj = nn.Sequential(
            nn.LayerNorm(joint_width),
            nn.Linear(joint_width, joint_width),
            nn.ReLU(),
            nn.LayerNorm(joint_width),
            nn.Linear(joint_width, token_width),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return a prompt (B, D) for each token (B, C)."""
        return self.prompt_proj(tokens)
