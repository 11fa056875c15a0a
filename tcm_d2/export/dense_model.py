"""The detector as one function of an image tensor, with nothing in it that needs Python.

Shape letters: N images, H x W input size, R locations or anchors of one image over all levels, K
classes, Q candidates of one image, C joint width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcm_d2.modeling.dense.anchors import make_point_grid
from tcm_d2.modeling.heads.anchor_based import NUM_DELTAS
from tcm_d2.modeling.heads.fcos import RotatedFCOSHead
from tcm_d2.modeling.meta_arch.one_stage import RotatedOneStageDetector

KINDS = ("dense", "candidates")


class DenseModel(nn.Module):
    """Images -> boxes and scores of all locations, or of the best candidates of each level.

    Attributes:
        kind: "dense" or "candidates".
        output_names: of the tuple that `forward` returns.
        anchors_per_cell: None for heads without anchors.
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
            ValueError: ``kind`` is neither.
        """
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
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
        generator = getattr(detector.head, "anchor_generator", None)
        self.anchors_per_cell = None if generator is None else generator.num_anchors
        if kind == "candidates":
            self.output_names = ("boxes", "scores", "classes")
        elif hasattr(detector.head, "centerness_predictor"):
            self.output_names = ("boxes", "class_scores", "centerness")
        else:
            self.output_names = ("boxes", "class_scores")

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
        pyramid, _ = detector.features_with_text(normalised, self.text)
        output = detector.head(pyramid)
        boxes = self._boxes(output)
        num_classes = detector.head.num_classes
        logits = [_rows(level, num_classes) for level in output.class_logits]
        levels = getattr(output, "centerness_logits", None)
        centerness = None if levels is None else [_rows(v, 1).sigmoid()[..., 0] for v in levels]
        if self.kind == "candidates":
            per_level = boxes.split([level.shape[1] for level in logits], dim=1)
            return self._candidates(per_level, logits, centerness)
        outputs = [boxes, torch.cat(logits, 1).sigmoid()]
        if centerness is not None:
            outputs.append(torch.cat(centerness, 1))
        return tuple(outputs)

    def _boxes(self, output: Any) -> Tensor:
        """Return the boxes (N, R, 5) of the head's raw output."""
        head = self.detector.head
        sizes_hw = [(level.shape[2], level.shape[3]) for level in output.class_logits]
        num_images, device = output.class_logits[0].shape[0], output.class_logits[0].device
        if isinstance(head, RotatedFCOSHead):
            grid = make_point_grid(sizes_hw, head.strides_px, device)
            distances = torch.cat([_rows(level, 4) for level in output.distances], dim=1)
            distances = distances * grid.strides_px[:, None]
            angle_rad = torch.cat([_rows(level, 1) for level in output.angle_rad], dim=1)
            points = grid.points_xy.expand(num_images, -1, -1)
            flat = head.coder.decode(
                points.flatten(0, 1), distances.flatten(0, 1), angle_rad.flatten()
            )
        else:
            anchors = head.anchor_generator.make_grid(sizes_hw, device).boxes
            anchors = anchors.expand(num_images, -1, -1)
            deltas = torch.cat([_rows(level, NUM_DELTAS) for level in output.deltas], dim=1)
            flat = head.coder.decode(anchors.flatten(0, 1), deltas.flatten(0, 1))
        return flat.unflatten(0, (num_images, -1))

    def _candidates(
        self, boxes: Sequence[Tensor], logits: list[Tensor], centerness: list[Tensor] | None
    ) -> tuple[Tensor, ...]:
        """Return the best candidates of each level, best first within a level."""
        head = self.detector.head
        topk = head.topk_candidates
        chosen: list[list[Tensor]] = [[], [], []]
        for level, level_logits in enumerate(logits):
            # Padding lets every level have that many; a padded place scores 0.
            flat = F.pad(level_logits.sigmoid().flatten(1), (0, topk))
            scores, index = flat.topk(topk, dim=1)  # (N, topk)
            row = (index // head.num_classes).clamp(max=level_logits.shape[1] - 1)
            final = torch.where(scores > head.score_threshold, scores, 0.0)
            if centerness is not None:
                final = final * centerness[level].gather(1, row)
            chosen[0].append(boxes[level].gather(1, row[..., None].expand(-1, -1, 5)))
            chosen[1].append(final)
            chosen[2].append(index % head.num_classes)
        found, scores, classes = (torch.cat(parts, dim=1) for parts in chosen)
        # Boxes without area are dropped, as in the detector.
        has_area = (found[..., 2] > 0) & (found[..., 3] > 0)
        return found, torch.where(has_area, scores, 0.0), classes


def _rows(level: Tensor, num_values: int) -> Tensor:
    """Return a map (N, A * V, H, W) as (N, H * W * A, V): cells row-major, then the A of a cell."""
    rows = level.flatten(2).transpose(1, 2)  # (N, HW, A * V)
    return rows.reshape(level.shape[0], -1, num_values)
