"""The detector as one function of an image tensor, with nothing in it that needs Python.

Shape letters: N images, H x W input size, R locations or anchors of one image over all levels, K
classes, Q candidates of one image, C joint width.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcm_d2.modeling.detector import RotatedOneStageDetector
from tcm_d2.modeling.heads.contract import DenseOutput

KINDS = ("dense", "candidates")


class DenseModel(nn.Module):
    """Images -> boxes and scores of all locations, or of the best candidates of each level.

    Attributes:
        kind: "dense" or "candidates".
        output_names: of the tuple that `forward` returns.
        text: (K, C) class embeddings as constants; None where they depend on the image.
    """

    text: Tensor | None

    def __init__(self, detector: RotatedOneStageDetector, *, kind: str) -> None:
        """Copy ``detector``, which stays as it is.

        Args:
            detector: any head, with TCM or without.
            kind: "dense" gives every location's box and scores; "candidates" what the detector's
                own inference would give to NMS.

        Raises:
            TypeError: another detector than ours.
            ValueError: ``kind`` is neither.
        """
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        if not isinstance(detector, RotatedOneStageDetector):
            raise TypeError(
                f"detector: a {type(detector).__name__} cannot be exported; expected a "
                "RotatedOneStageDetector (its head says what is dense), with any backbone and head"
            )
        detector = copy.deepcopy(detector).eval()
        text = None
        if detector.tcm is not None:
            if not detector.tcm.text_needs_image:
                detector.fix_text()
                text = detector.text_encoder.features
                detector.text_encoder = nn.Identity()
        for parameter in detector.parameters():
            parameter.requires_grad_(False)
        self.detector = detector
        self.kind = kind
        self.register_buffer("text", text)
        self.output_names = (
            ("boxes", "scores", "classes")
            if kind == "candidates"
            else ("boxes", "class_scores", *detector.head.factor_names)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs by `output_names`.

        "dense": boxes (N, R, 5), class_scores (N, R, K) and, for heads that have it, centerness
        (N, R). "candidates": boxes (N, Q, 5), scores (N, Q) and classes int64 (N, Q), where Q is
        the limit per level times the levels and a score of 0 marks an empty place.

        Args:
            images: float32 (N, 3, H, W), values 0..255 in the detector's channel order; H and W
                multiples of 32.
        """
        detector = self.detector
        normalised = (images - detector.pixel_mean) / detector.pixel_std
        output, _ = detector.dense_output(normalised, self.text)
        dense: DenseOutput = detector.head.dense_output(output)
        if self.kind == "candidates":
            return self._candidates(dense)
        scores = torch.cat(dense.class_logits, 1).sigmoid()
        return (dense.boxes, scores, *(torch.cat(levels, 1) for levels in dense.factors))

    def _candidates(self, dense: DenseOutput) -> tuple[Tensor, ...]:
        """Return the best candidates of each level, best first within a level."""
        head = self.detector.head
        topk = head.topk_candidates
        chosen: list[list[Tensor]] = [[], [], []]
        boxes = dense.boxes.split([level.shape[1] for level in dense.class_logits], dim=1)
        for level, logits in enumerate(dense.class_logits):
            # Padding lets every level have that many; a padded place scores 0.
            flat = F.pad(logits.sigmoid().flatten(1), (0, topk))
            scores, index = flat.topk(topk, dim=1)  # (N, topk)
            row = (index // head.num_classes).clamp(max=logits.shape[1] - 1)
            final = torch.where(scores > head.score_threshold, scores, 0.0)
            for factor in dense.factors:
                final = final * factor[level].gather(1, row)
            chosen[0].append(boxes[level].gather(1, row[..., None].expand(-1, -1, 5)))
            chosen[1].append(final)
            chosen[2].append(index % head.num_classes)
        found, scores, classes = (torch.cat(parts, dim=1) for parts in chosen)
        # Boxes without area are dropped, as in the detector.
        has_area = (found[..., 2] > 0) & (found[..., 3] > 0)
        return found, torch.where(has_area, scores, 0.0), classes
