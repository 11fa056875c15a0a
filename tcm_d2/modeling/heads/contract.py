"""What a rotated one-stage head has: for the detector, for export and for weight files.

Letters: N images, K classes, L levels, A places of a cell (its anchors, or 1), R places of one
image over all levels, M ground truths of one image, Q candidates of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor


class DenseOutput(NamedTuple):
    """What a head says about every place, for programs that choose by themselves.

    Attributes:
        boxes: (N, R, 5) boxes, image pixels; levels in order, cells row-major, then a cell's
            anchors.
        class_logits: (N, R of the level, K) of each level.
        factors: for each of the head's ``factor_names``, (N, R of the level) of each level in
            (0, 1): what a class score is multiplied with.
    """

    boxes: Tensor
    class_logits: list[Tensor]
    factors: list[list[Tensor]]


class ForeignNames(NamedTuple):
    """Names of a head's tensors in mmrotate's checkpoints, below ``bbox_head.``.

    Towers are ``cls_convs`` and ``reg_convs`` there, and ``class_tower`` and ``box_tower`` here.

    Attributes:
        title: what the head is called.
        modules: mmrotate's names of the other modules, and ours; what becomes ``class_predictor``
            tells mmrotate's heads apart.
        layers_per_block: of a tower: convolution, (norm,) activation.
        stages: of a head of several stages, that has no names below ``bbox_head.``: what its names
            begin with there, and here below ``head.``.
    """

    title: str
    modules: Mapping[str, str]
    layers_per_block: int
    stages: Mapping[str, str] = MappingProxyType({})


class RotatedHead(Protocol):
    """A head that `RotatedOneStageDetector` can have; `DenseHead` brings the half of it.

    Heads are registered in ``ROTATED_HEAD_REGISTRY``; their raw output is a NamedTuple of lists
    with one tensor per level.

    Attributes:
        num_classes: K.
        strides_px: of the L levels.
        anchors_per_cell: A, or None for a head without anchors.
        factor_names: of what is multiplied with the class score, such as "centerness".
        clamps_centers: whether predicted centres are moved into the image.
        score_threshold: on class scores, before NMS.
        topk_candidates: limit per level, before NMS.
        nms_threshold: IoU above which NMS drops a box.
        max_detections: limit per image.
        foreign_names: its tensors in mmrotate's checkpoints; heads that none has go without.
    """

    num_classes: int
    strides_px: Sequence[int]
    anchors_per_cell: int | None
    factor_names: tuple[str, ...]
    clamps_centers: bool
    score_threshold: float
    topk_candidates: int
    nms_threshold: float
    max_detections: int
    foreign_names: ClassVar[ForeignNames]

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Add the head's own keys to ``cfg`` in place, in a section of its own."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Return the constructor's arguments, as plain values and LazyCall nodes.

        Args:
            cfg: the whole configuration.
            input_shape: channels and stride of each level of the pyramid.
        """

    def forward(self, features: list[Tensor]) -> Any:
        """Return the raw output for one (N, C, H, W) map per level.

        A head that has a `TextClassifier` gets the class embeddings (N, K, C) of each image as the
        second argument; ``num_classes`` then follows the list of classes.
        """

    def losses(
        self, output: Any, gt_boxes: list[Tensor], gt_classes: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return scalar losses by name, divided by their normalisers.

        Args:
            output: what ``forward`` returned.
            gt_boxes: (M, 5) boxes of each image, image pixels.
            gt_classes: (M,) int64 classes of each image.
        """

    def predict(self, output: Any, image_sizes_hw: list[tuple[int, int]]) -> list[Instances]:
        """Return the detections of each image, by descending score.

        Args:
            output: what ``forward`` returned.
            image_sizes_hw: size of each image without padding; the frame of the boxes.
        """

    def make_grid(self, output: Any) -> Any:
        """Return the places of one image that this output is about."""

    def candidates(
        self, output: Any, grid: Any, image: int, image_size_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return one image's boxes (Q, 5), scores (Q,) and classes (Q,) before NMS."""

    def dense_output(self, output: Any) -> DenseOutput:
        """Return what the raw output says about every place; it can be exported."""
