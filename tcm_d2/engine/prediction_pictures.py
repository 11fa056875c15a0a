"""Pictures of predictions in TensorBoard while a detector trains."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.engine import HookBase
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tcm_d2.data.annotations import objects_of
from tcm_d2.data.images import read_image
from tcm_d2.engine.ema import WeightAverage
from tcm_d2.structures.conversions import quads_to_boxes
from tcm_d2.visualize.draw import draw_boxes, draw_comparison

logger = logging.getLogger(__name__)

NUM_PICTURES = 4
# Predictions below it are not drawn.
SCORE_THRESHOLD = 0.3
_PREFIX = "predictions"


class PictureSample(NamedTuple):
    """An image to look at.

    Attributes:
        record: of the data set; its quads, if any, are the truth.
        inputs: what the model gets for it.
    """

    record: dict[str, Any]
    inputs: dict[str, Any]


@dataclass(frozen=True)
class PicturePlan:
    """When to draw what.

    Attributes:
        period: iterations between pictures.
        class_names: by class index.
        load_samples: reads the images, at the first pictures.
    """

    period: int
    class_names: Sequence[str]
    load_samples: Callable[[], list[PictureSample]]


class PredictionPictures(HookBase):  # type: ignore[misc]
    """Draws predictions against the truth every so often; the training itself is not changed.

    For the main process only. With a moving average of the weights it is this one that predicts,
    as in evaluations.
    """

    def __init__(self, plan: PicturePlan, *, average: WeightAverage | None) -> None:
        """Keep the plan; images are read when they are needed first."""
        self._plan = plan
        self._average = average
        self._samples: list[PictureSample] | None = None

    def after_step(self) -> None:
        """Draw if it is time; the event writers take the pictures from the storage."""
        if (self.trainer.iter + 1) % self._plan.period:
            return
        if self._samples is None:
            self._samples = self._plan.load_samples()
        model = self.trainer.model
        if isinstance(model, DistributedDataParallel):
            model = model.module
        for sample in self._samples:
            picture = self._draw(model, sample)
            name = f"{_PREFIX}/{sample.record['image_id']}"
            self.trainer.storage.put_image(name, picture.transpose(2, 0, 1))

    @torch.no_grad()
    def _draw(self, model: nn.Module, sample: PictureSample) -> np.ndarray:
        """Return the image with predictions, compared with the truth where it is known."""
        was_training = model.training
        model.eval()
        try:
            with nullcontext() if self._average is None else self._average.swapped_in():
                found = model([sample.inputs])[0]["instances"].to("cpu")
        finally:
            model.train(was_training)
        found = found[found.pred_boxes.tensor.isfinite().all(dim=1)]
        found = found[found.scores >= SCORE_THRESHOLD]
        image = read_image(sample.record["file_name"], channel_order="RGB")
        names = self._plan.class_names
        boxes, classes = found.pred_boxes.tensor.float(), found.pred_classes
        if "annotations" not in sample.record:
            return draw_boxes(
                image, boxes, labels=classes, scores=found.scores.float(), class_names=names
            )
        objects = objects_of(sample.record)
        return draw_comparison(
            image,
            quads_to_boxes(objects.quads),
            objects.class_ids.tolist(),
            boxes,
            classes,
            found.scores.float(),
            class_names=names,
            gt_difficult=(objects.difficult | objects.crowd).tolist(),
            score_threshold=SCORE_THRESHOLD,
        )


def load_samples(
    records: Sequence[dict[str, Any]], mapper: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> list[PictureSample]:
    """Return images spread over a data set, those with objects where there are any.

    Args:
        records: of the data set.
        mapper: for evaluation. It may draw random numbers; NumPy's state is put back.
    """
    with_objects = [record for record in records if record.get("annotations")]
    candidates = with_objects or list(records)
    picked = np.linspace(0, len(candidates) - 1, min(NUM_PICTURES, len(candidates))).astype(int)
    state = np.random.get_state()  # noqa: NPY002 - the mapper's source of randomness
    try:
        samples = []
        for index in picked:
            inputs = mapper(candidates[index])
            if inputs is not None:
                samples.append(PictureSample(candidates[index], inputs))
    finally:
        np.random.set_state(state)  # noqa: NPY002
    logger.info("pictures of predictions: %s", ", ".join(s.record["image_id"] for s in samples))
    return samples
