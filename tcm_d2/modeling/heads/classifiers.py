"""What gives class logits at the end of a head's class tower: a convolution, or class embeddings.

Letters: N images, K classes, A places of a cell (its anchors, or 1), O channels of the tower, C
joint width of images and text.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcm_d2.layers.precision import at_least_float32
from tcm_d2.modeling.heads.towers import Predictor, bias_from_prior, init_normal, make_predictor

LINEAR, TEXT = "linear", "text"
CLASSIFIERS = (LINEAR, TEXT)
# Start of what cosines are multiplied with: one over the temperature of the score map.
INITIAL_LOGIT_SCALE = 1 / 0.07


class TextClassifier(nn.Module):
    """Class logits as scaled cosines of a cell's features with class embeddings, plus one bias.

    Nothing in it belongs to a class: the list of classes may change after training. The projection
    into the joint space is made when its width is known; see `connect`.
    """

    projection: Predictor

    def __init__(self, channels: int, *, num_anchors: int, prior_prob: float) -> None:
        """Args:
        channels: O.
        num_anchors: A.
        prior_prob: score of every class where no cosine is far from zero.
        """
        super().__init__()
        self.channels = channels
        self.num_anchors = num_anchors
        self.logit_scale = nn.Parameter(torch.tensor(math.log(INITIAL_LOGIT_SCALE)))
        self.logit_bias = nn.Parameter(torch.tensor(bias_from_prior(prior_prob)))

    def connect(self, joint_width: int) -> None:
        """Make the projection of the tower's features into a joint space of this width (C)."""
        self.projection = Predictor(self.channels, self.num_anchors * joint_width, 1)
        init_normal(self.projection, bias=0.0)

    def forward(self, feature: Tensor, text_NKC: Tensor) -> Tensor:
        """Return the logits (N, A * K, H, W), anchor by anchor.

        Args:
            feature: (N, O, H, W) of the class tower.
            text_NKC: class embeddings of each image, any length.
        """
        joint = self.projection(feature).unflatten(1, (self.num_anchors, -1))  # (N, A, C, H, W)
        joint = F.normalize(at_least_float32(joint), dim=2)
        text_NKC = F.normalize(at_least_float32(text_NKC), dim=2)
        cosines = torch.einsum("nachw,nkc->nakhw", joint, text_NKC)
        return self.logit_scale.exp() * cosines.flatten(1, 2) + self.logit_bias


def make_classifier(
    kind: str, channels: int, *, num_anchors: int, num_classes: int, prior_prob: float
) -> Predictor | TextClassifier:
    """Return what follows a class tower.

    Args:
        kind: "linear" (as published: a convolution with one output per class) or "text".
        channels: O.
        num_anchors: A.
        num_classes: K; "text" does not read it.
        prior_prob: initial score of every class.

    Raises:
        ValueError: ``kind`` is neither.
    """
    if kind not in CLASSIFIERS:
        raise ValueError(
            f"classifier: expected one of {', '.join(CLASSIFIERS)}, got {kind!r}; set "
            "MODEL.ROTATED_HEAD.CLASSIFIER"
        )
    if kind == TEXT:
        return TextClassifier(channels, num_anchors=num_anchors, prior_prob=prior_prob)
    return make_predictor(channels, num_anchors * num_classes, bias=bias_from_prior(prior_prob))


def classify(classifier: nn.Module, feature: Tensor, text_NKC: Tensor | None) -> Tensor:
    """Return the logits (N, A * K, H, W).

    Args:
        classifier: from `make_classifier`.
        feature: (N, O, H, W) of the class tower.
        text_NKC: class embeddings, where the classifier reads them.
    """
    logits: Tensor = classifier(feature) if text_NKC is None else classifier(feature, text_NKC)
    return logits


def connect_text(head: nn.Module, joint_width: int) -> None:
    """Tell every text classifier in a head how wide the class embeddings are (C)."""
    for module in head.modules():
        if isinstance(module, TextClassifier):
            module.connect(joint_width)


def reads_text(head: nn.Module) -> bool:
    """Return whether the head's class logits come from class embeddings."""
    return any(isinstance(module, TextClassifier) for module in head.modules())
