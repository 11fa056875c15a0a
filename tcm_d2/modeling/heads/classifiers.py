"""What gives class logits at the end of a head's class tower: a convolution, or class embeddings.

Letters: N images, K classes, A places of a cell (its anchors, or 1), O channels of the tower, C
joint width of images and text.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcm_d2.layers.precision import at_least_float32
from tcm_d2.modeling.heads.towers import Predictor, bias_from_prior, init_normal, make_predictor

LINEAR, TEXT = "linear", "text"
CLASSIFIERS = (LINEAR, TEXT)
# Start of what cosines are multiplied with: one over the temperature of the score map.
INITIAL_LOGIT_SCALE = 1 / 0.07
# Exponent of CLIP's part in the score of a class that was not trained; the head has the rest.
CLIP_WEIGHT = 0.65


class ClassWords(NamedTuple):
    """The words of the classes, as a head that classifies by them gets them.

    Attributes:
        text_NKC: class embeddings of each image, any length: of the classes asked for, and behind
            them of those trained classes that are not asked for.
        num_classes: how many are asked for.
        untrained: those of them that the detector was not trained on.
        score_map_NKHW: raw, of all of ``text_NKC``; only read for untrained ones.
    """

    text_NKC: Tensor
    num_classes: int
    untrained: tuple[int, ...]
    score_map_NKHW: Tensor

    @property
    def trained_rows(self) -> list[int]:
        """Rows of trained classes, whether asked for or not."""
        return [row for row in range(self.text_NKC.shape[1]) if row not in self.untrained]


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

    def forward(self, feature: Tensor, words: ClassWords) -> Tensor:
        """Return the logits (N, A * K, H, W) of the classes asked for, anchor by anchor.

        Args:
            feature: (N, O, H, W) of the class tower.
            words: of the classes.
        """
        joint = self.projection(feature).unflatten(1, (self.num_anchors, -1))  # (N, A, C, H, W)
        joint = F.normalize(at_least_float32(joint), dim=2)
        text_NKC = F.normalize(at_least_float32(words.text_NKC), dim=2)
        cosines = torch.einsum("nachw,nkc->nakhw", joint, text_NKC)
        logits = self.logit_scale.exp() * cosines + self.logit_bias
        if words.untrained:
            logits = name_untrained(logits, words)
        return logits[:, :, : words.num_classes].flatten(1, 2)


def name_untrained(logits_NAKHW: Tensor, words: ClassWords) -> Tensor:
    """Return the logits with those of untrained classes replaced.

    Training taught the head that whatever has no label looks like no word. So the head is asked
    only whether something is there, by the scores of its trained classes, weighted by how near
    their words are to the class's. What it is says the score map, in which CLIP is still heard, by
    its softmax over all words, also those of trained classes that are not asked for. The score is
    the weighted geometric mean of the two, with the weights that F-VLM (arXiv 2209.15639) has for
    novel classes; the region features that it has for CLIP's part are not needed.

    Args:
        logits_NAKHW: of all of ``words.text_NKC``, K in this case.
        words: of the classes.
    """
    trained = words.trained_rows
    text_NKC = F.normalize(at_least_float32(words.text_NKC), dim=2)
    nearness = (INITIAL_LOGIT_SCALE * text_NKC @ text_NKC[:, trained].mT).softmax(dim=2)
    objectness = torch.einsum("nkt,nathw->nakhw", nearness, logits_NAKHW[:, :, trained].sigmoid())
    shares = F.interpolate(
        at_least_float32(words.score_map_NKHW),
        size=logits_NAKHW.shape[-2:],
        mode="bilinear",
        align_corners=False,
    ).softmax(dim=1)[:, None]
    scores = objectness ** (1 - CLIP_WEIGHT) * shares**CLIP_WEIGHT  # (N, A, K, H, W)
    is_untrained = torch.tensor(
        [row in words.untrained for row in range(logits_NAKHW.shape[2])], device=scores.device
    )
    return torch.where(is_untrained[:, None, None], torch.logit(scores, 1e-6), logits_NAKHW)


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


def classify(classifier: nn.Module, feature: Tensor, words: ClassWords | None) -> Tensor:
    """Return the logits (N, A * K, H, W).

    Args:
        classifier: from `make_classifier`.
        feature: (N, O, H, W) of the class tower.
        words: of the classes, where the classifier reads them.
    """
    logits: Tensor = classifier(feature) if words is None else classifier(feature, words)
    return logits


def connect_text(head: nn.Module, joint_width: int) -> None:
    """Tell every text classifier in a head how wide the class embeddings are (C)."""
    for module in head.modules():
        if isinstance(module, TextClassifier):
            module.connect(joint_width)


def reads_text(head: nn.Module) -> bool:
    """Return whether the head's class logits come from class embeddings."""
    return any(isinstance(module, TextClassifier) for module in head.modules())
