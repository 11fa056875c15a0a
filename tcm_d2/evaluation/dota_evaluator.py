"""Detectron2 evaluator for DOTA: gather, merge patches into images, write Task1 files, score."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from tcm_d2.config.registries import PART_REGISTRY
from tcm_d2.data.dota.labels import OnError
from tcm_d2.evaluation.analysis.export import export_evaluation
from tcm_d2.evaluation.analysis.result import EvaluationResult, analyze_evaluation
from tcm_d2.evaluation.files.escapes import describe_escaped_ids
from tcm_d2.evaluation.files.rows import result_file_name
from tcm_d2.evaluation.files.task_files import read_task1, write_submission
from tcm_d2.evaluation.merge import (
    concatenate_patch_detections,
    merge_patch_detections,
    save_patch_detections,
)
from tcm_d2.evaluation.scoring.annotations import (
    Annotations,
    annotations_from_dicts,
    read_annotations,
)
from tcm_d2.evaluation.scoring.average_precision import Metric
from tcm_d2.evaluation.scoring.protocols import Rules, prepare_evaluation
from tcm_d2.evaluation.scoring.score import ScoreTable
from tcm_d2.structures.conversions import boxes_to_quads
from tcm_d2.structures.detections import (
    BoxDetections,
    ClassDetections,
    ImageDetections,
    PatchDetections,
)

logger = logging.getLogger(__name__)

PATCH_DETECTIONS_FILE = "patch_detections.npz"
TASK1_DIR = "Task1"
AP_FILE = "ap.json"
ANALYSIS_DIR = "analysis"
# Result files by patch, where the patches have the only labels.
PATCHES_DIR = "patches"

Analysis = Literal["none", "numbers", "pictures"]
ANALYSES: tuple[str, ...] = ("none", "numbers", "pictures")

_NEEDED_KEYS = ("image_id", "source_image_id", "patch_origin_xy", "patch_scale")


@PART_REGISTRY.register()
class DotaEvaluator(DatasetEvaluator):  # type: ignore[misc]
    """Score rotated detections on patches by the DOTA devkit's rules on whole images.

    ``output_dir`` receives, in this order: ``patch_detections.npz`` (all that was predicted, so
    that a failure later loses nothing), ``Task1/Task1_<class>.txt``, ``Task1.zip``, ``ap.json``
    and ``analysis/`` (see ``analysis.export``).
    What is scored are the written files read back, so that scoring them again gives the same
    numbers to the last digit.

    All images of the data set count, also those without a prediction. Without labels (the test
    split) only the submission is written.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path,
        *,
        nms_iou_threshold: float,
        iou_threshold: float,
        metric: Metric,
        analysis: Analysis = "numbers",
        distributed: bool = True,
        on_bad_label: OnError = "raise",
    ) -> None:
        """Look up the data set and read its labels, so that what is wrong shows before the work.

        Args:
            dataset_name: a registered data set. Its metadata carry ``thing_classes`` and
                ``label_dir`` (whole-image labels, or None); with ``labels_in_dicts``, and for data
                sets of others that have neither, the dicts' own annotations are scored. Patches
                without ``label_dir`` are scored one by one, with their own labels if they have any.
            output_dir: made where missing.
            nms_iou_threshold: IoU above which merging suppresses.
            iou_threshold: IoU above which a detection matches an object.
            metric: "11point" or "area".
            analysis: "none", "numbers" (JSON and CSV files) or "pictures" (these and PNG files).
            distributed: gather from all processes; else each process scores what it saw.
            on_bad_label: what to do with bad label lines, see ``read_label``.

        Raises:
            KeyError: for an unknown data set.
            FileNotFoundError, ValueError: when labels are missing or bad, or the data set is empty.
        """
        metadata = MetadataCatalog.get(dataset_name)
        dicts = DatasetCatalog.get(dataset_name)
        if not dicts:
            raise ValueError(f"data set {dataset_name!r}: expected images, got none to evaluate on")
        self._dataset_name = dataset_name
        self._classes: list[str] = list(metadata.thing_classes)
        for name in self._classes:
            result_file_name(name)  # raises for what no file can be called
        self._patch_ids = {str(entry["image_id"]) for entry in dicts}
        image_ids = sorted({str(e.get("source_image_id", e["image_id"])) for e in dicts})
        if escaped := describe_escaped_ids(image_ids):
            logger.warning("%s: %s", dataset_name, escaped)
        self._output_dir = Path(output_dir)
        self._nms_iou_threshold = nms_iou_threshold
        self._iou_threshold = iou_threshold
        self._metric: Metric = metric
        if analysis not in ANALYSES:
            raise ValueError(f"analysis: expected one of {ANALYSES}, got {analysis!r}")
        self._analysis: Analysis = analysis
        self._distributed = distributed
        self._annotations: Annotations | None = None
        self._scores_patches = False
        label_dir = metadata.get("label_dir", None)
        is_foreign = not hasattr(metadata, "label_dir")
        if label_dir is not None and (not distributed or comm.is_main_process()):
            self._annotations = read_annotations(
                label_dir,
                image_ids=image_ids,
                classes=self._classes,
                on_bad_label=on_bad_label,
            )
        elif label_dir is None:
            is_whole = metadata.get("labels_in_dicts", is_foreign)
            self._annotations = annotations_from_dicts(dicts, self._classes, patches=not is_whole)
            self._scores_patches = not is_whole and self._annotations is not None
        if self._scores_patches:
            logger.warning(
                "%s: no labels of whole images are known, so each patch is scored with its own "
                "labels: objects in overlaps count more than once; 'name=patch_dir=label_dir' in "
                "DATASETS.PATCH_DIRS names the labels",
                dataset_name,
            )
        self._parts: list[PatchDetections] = []
        self._num_not_finite = 0

    def reset(self) -> None:
        """Forget all detections."""
        self._parts = []
        self._num_not_finite = 0

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keep the detections of one batch.

        Args:
            inputs: dicts with ``image_id`` (of the patch), ``source_image_id``,
                ``patch_origin_xy`` and ``patch_scale``.
            outputs: dicts with ``instances``: ``pred_boxes`` (RotatedBoxes, patch pixels),
                ``scores`` and ``pred_classes``. Boxes or scores that are not finite are left out
                and counted.

        Raises:
            ValueError: when a key is missing, or a class index is not one of the data set's.
        """
        for entry, output in zip(inputs, outputs, strict=True):
            missing = [key for key in _NEEDED_KEYS if key not in entry]
            if missing:
                raise ValueError(
                    f"inputs: missing keys {missing} for {entry.get('file_name')!r}; the evaluator "
                    "needs the dicts of a registered DOTA data set as the mapper passes them on"
                )
            self._parts.append(self._to_patch_detections(entry, output["instances"]))

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Merge, write and score; return {"dota": {"AP50": ..., "AP50-<class>": ...}} in percent.

        The number in the key is the IoU threshold. Classes without ground truth are NaN and not
        part of the mean. The result is empty on other processes than the main one and for a data
        set without labels.
        """
        detections = concatenate_patch_detections(self._parts)
        num_not_finite = self._num_not_finite
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather((detections, num_not_finite), dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            detections = concatenate_patch_detections([part for part, _ in gathered])
            num_not_finite = sum(num for _, num in gathered)
        self._output_dir.mkdir(parents=True, exist_ok=True)
        rescue_file = self._output_dir / PATCH_DETECTIONS_FILE
        save_patch_detections(rescue_file, detections)
        self._warn_about_detections(detections, num_not_finite)
        try:
            return self._score(detections)
        except Exception:
            logger.error("evaluation failed; the predictions are kept in %s", rescue_file)
            raise

    def _score(self, detections: PatchDetections) -> OrderedDict[str, dict[str, float]]:
        merged = merge_patch_detections(detections, iou_threshold=self._nms_iou_threshold)
        zip_path = write_submission(
            self._output_dir, rows_by_class(merged, classes=self._classes), classes=self._classes
        )
        logger.info(
            "%s: %d detections on patches, %d after merging into %d images; submission in %s",
            self._dataset_name,
            len(detections.found),
            len(merged.found),
            len(merged.image_ids),
            zip_path,
        )
        if self._annotations is None:
            logger.info("%s has no labels: nothing is scored", self._dataset_name)
            return OrderedDict()
        scored_dir = self._output_dir
        if self._scores_patches:
            scored_dir = self._output_dir / PATCHES_DIR
            by_patch = merge_patch_detections(
                detections.of_whole_images(), iou_threshold=self._nms_iou_threshold
            )
            rows = rows_by_class(by_patch, classes=self._classes)
            write_submission(scored_dir, rows, classes=self._classes)
        written = read_task1(scored_dir / TASK1_DIR)
        rules = Rules(metric=self._metric)
        prepared = prepare_evaluation(
            {name: written[name] for name in self._classes}, self._annotations, rules=rules
        )
        for text in prepared.warnings:
            logger.warning("%s", text)
        result = analyze_evaluation(prepared, iou_threshold=self._iou_threshold, rules=rules)
        table = result.table
        table.write_json(self._output_dir / AP_FILE)
        self._export(result)
        logger.info("AP of %s in percent:\n%s", self._dataset_name, table.as_table())
        return OrderedDict(dota=to_percent_metrics(table))

    def _export(self, result: EvaluationResult) -> None:
        if self._analysis == "none":
            return
        folder = self._output_dir / ANALYSIS_DIR
        try:
            export_evaluation(folder, result, pictures=self._analysis == "pictures")
        except Exception:
            # The AP is written: a full disk or a missing font must not end a training run.
            logger.exception("the analysis in %s could not be written", folder)

    def _to_patch_detections(self, entry: Mapping[str, Any], instances: Any) -> PatchDetections:
        found = BoxDetections(
            instances.pred_boxes.tensor.detach().to("cpu", torch.float32).numpy(),
            instances.scores.detach().to("cpu", torch.float32).numpy(),
            instances.pred_classes.detach().to("cpu", torch.int64).numpy(),
        )
        finite = np.isfinite(found.boxes).all(axis=1) & np.isfinite(found.scores)
        self._num_not_finite += int((~finite).sum())
        found = found.select(finite)
        class_ids, num_classes = found.class_ids, len(self._classes)
        if len(found) and not 0 <= int(class_ids.min()) <= int(class_ids.max()) < num_classes:
            raise ValueError(
                f"pred_classes: expected 0..{num_classes - 1} (data set {self._dataset_name!r} has "
                f"{num_classes} classes), got {int(class_ids.min())}..{int(class_ids.max())}; set "
                "the model's number of classes"
            )
        return PatchDetections(
            patch_ids=[str(entry["image_id"])],
            image_ids=[str(entry["source_image_id"])],
            origins_xy=np.array([entry["patch_origin_xy"]], dtype=np.float64).reshape(1, 2),
            scales=np.array([entry["patch_scale"]], dtype=np.float64),
            patch_index=np.zeros(len(found), dtype=np.int64),
            found=found,
        )

    def _warn_about_detections(self, detections: PatchDetections, num_not_finite: int) -> None:
        if num_not_finite:
            logger.warning(
                "left out %d detections with NaN or infinite numbers: has training diverged?",
                num_not_finite,
            )
        num_unseen = len(self._patch_ids - set(detections.patch_ids))
        if num_unseen:
            logger.warning(
                "%d of %d patches of %s were not predicted; their objects count as missed",
                num_unseen,
                len(self._patch_ids),
                self._dataset_name,
            )


def rows_by_class(merged: ImageDetections, *, classes: Sequence[str]) -> dict[str, ClassDetections]:
    """Return merged detections as Task1 rows, keyed by class name, each class in merged order."""
    scores, class_ids = merged.found.scores, merged.found.class_ids
    quads = boxes_to_quads(torch.from_numpy(merged.found.boxes)).numpy()
    rows = {}
    for class_id, name in enumerate(classes):
        mine = np.flatnonzero(class_ids == class_id)
        image_ids = [merged.image_ids[index] for index in merged.image_index[mine].tolist()]
        rows[name] = ClassDetections(image_ids, scores[mine], quads[mine])
    return rows


def to_percent_metrics(table: ScoreTable) -> dict[str, float]:
    """Return {"AP50": mean, "AP50-<class>": ...} in percent, the mean first."""
    key = f"AP{100 * table.iou_threshold:g}"
    metrics = {key: 100.0 * table.mean_ap}
    for name, result in table.classes.items():
        metrics[f"{key}-{name}"] = 100.0 * result.ap
    return metrics
