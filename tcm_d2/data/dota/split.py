"""Cut DOTA images and labels into patches, in parallel and resumable.

The output folder holds ``images/``, ``labelTxt/`` (unless the images have no labels),
``manifest.jsonl`` and ``split_settings.json``. Windows, kept objects and padded pixels are those of
mmrotate's ``img_split.py``. Deliberate differences: the difficult flag is kept (that tool writes 2
for objects cut by the border: ``mark_truncated``), and multi-scale windows are saved at the patch
size (that tool saves them as large as they are and leaves the resizing to training:
``resize_patches``).
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from tcm_d2.data.dota import manifest
from tcm_d2.data.dota.labels import LabelProblems, list_labels
from tcm_d2.data.dota.manifest import PatchRecord
from tcm_d2.data.dota.patches import (
    MULTI_SCALE,
    SINGLE_SCALE,
    ImagePatches,
    SplitConfig,
    SplitTask,
    split_image,
)
from tcm_d2.data.images import list_images
from tcm_d2.data.raster_reader.orientation import describe_orientations
from tcm_d2.data.workers import image_pool
from tcm_d2.files import checked_name

__all__ = [
    "MULTI_SCALE",
    "SINGLE_SCALE",
    "SplitConfig",
    "SplitSource",
    "SplitSummary",
    "split_dataset",
]

logger = logging.getLogger(__name__)

_NUM_EXAMPLES = 3


class SplitSource(NamedTuple):
    """A folder of images and the folder of their labels (None: there are none).

    With ``image_ids`` only these images are cut; other labels belong to other folders.
    """

    image_dir: Path
    label_dir: Path | None
    image_ids: frozenset[str] | None = None


@dataclass
class SplitSummary:
    """What a split made; with ``dry_run``, what it would make.

    Attributes:
        num_images: images cut, those of an earlier run included.
        num_resumed: images whose patches were already there.
        num_patches, num_empty_patches: patches written, and those of them without objects.
        num_source_objects: objects in the label files read in this run.
        num_patch_objects: objects in all patches (overlaps count twice).
        skipped: images and labels left out, by reason.
        label_problems: lines left out or repaired.
        turned_images: names of images, cut in this run, whose EXIF orientation is not applied.
    """

    num_images: int = 0
    num_resumed: int = 0
    num_patches: int = 0
    num_empty_patches: int = 0
    num_source_objects: int = 0
    num_patch_objects: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    label_problems: LabelProblems = field(default_factory=LabelProblems)
    turned_images: list[str] = field(default_factory=list)


def split_dataset(
    sources: Sequence[SplitSource],
    out_dir: str | os.PathLike[str],
    *,
    config: SplitConfig,
    classes: Sequence[str] | None,
    num_workers: int,
    dry_run: bool = False,
    show_progress: bool = True,
) -> SplitSummary:
    """Cut all images of the sources into ``out_dir``; a second call finishes an interrupted one.

    Images whose patches are complete and whose source files have not changed are left alone.

    Args:
        sources: folders to cut into one output, e.g. train and val for "trainval"; either all or
            none have labels.
        out_dir: new or empty, or the output of an earlier call with the same settings.
        classes: allowed class names, None for any.
        num_workers: processes; 1 works in this process.
        dry_run: only count; nothing is written.

    Raises:
        FileNotFoundError, ValueError: missing folders, no images, an image id twice, images
            without label or labels without image, bad labels or images (each with the file's
            name), an output folder made with other settings.
    """
    sources = [
        SplitSource(Path(i), None if la is None else Path(la), *ids) for i, la, *ids in sources
    ]
    summary = SplitSummary()
    tasks = _collect_tasks(sources, config, summary)
    out_dir = Path(out_dir)
    finished: dict[str, list[PatchRecord]] = {}
    if not dry_run:
        finished = _prepare_output(out_dir, config, tasks, bool(sources[0].label_dir))
    todo = [task for task in tasks if task.image_id not in finished]
    for task in tasks:
        if task.image_id in finished:
            _count_image(summary, finished[task.image_id])
            summary.num_resumed += 1
    arguments = [(task, None if dry_run else out_dir, config, classes) for task in todo]
    progress = tqdm(
        _run(arguments, num_workers),
        total=len(todo),
        unit="image",
        disable=not (show_progress and todo),
    )
    for result in progress:
        summary.num_source_objects += result.num_source_objects
        summary.label_problems.merge(result.label_problems)
        if result.bad_image:
            summary.skipped["unreadable image"] += 1
            logger.warning("left out: %s", result.bad_image)
            continue
        if result.is_turned:
            summary.turned_images.append(result.task.image_path.name)
        _count_image(summary, result.records)
        finished[result.task.image_id] = result.records
        if not dry_run:
            partial = out_dir / manifest.PARTIAL_NAME
            manifest.append_finished_image(partial, result.task.image_id, result.records)
    if not dry_run:
        records = itertools.chain.from_iterable(finished[key] for key in sorted(finished))
        manifest.write_manifest(out_dir / manifest.MANIFEST_NAME, records)
        (out_dir / manifest.PARTIAL_NAME).unlink(missing_ok=True)
    _log_summary(summary)
    return summary


def _collect_tasks(
    sources: Sequence[SplitSource], config: SplitConfig, summary: SplitSummary
) -> list[SplitTask]:
    """Pair images with labels; raise about or count the unmatched ones."""
    if not sources:
        raise ValueError("sources: expected at least one image folder, got none")
    if len({source.label_dir is None for source in sources}) > 1:
        raise ValueError("sources: expected labels for all image folders or for none, got a mix")
    tasks: dict[str, SplitTask] = {}
    for image_dir, label_dir, image_ids in sources:
        images = list_images(image_dir)
        if image_ids is not None:
            images = {key: path for key, path in images.items() if key in image_ids}
        if not images:
            raise ValueError(f"image folder {image_dir}: expected images, found none")
        labels = None if label_dir is None else list_labels(label_dir)
        if labels is not None and image_ids is not None:
            labels = {key: path for key, path in labels.items() if key in image_ids}
        if labels is not None:
            _check_pairs(images, labels, image_dir, config, summary)
        for image_id, image_path in images.items():
            checked_name(image_id, where=f"{image_dir}: image file")
            if image_id in tasks:
                raise ValueError(
                    f"image id {image_id!r}: expected once, got {tasks[image_id].image_path} and "
                    f"{image_path}; patches are named by it, so rename one or split separately"
                )
            label_path = None if labels is None else labels.get(image_id)
            if labels is None or label_path is not None:
                stamp = _stamp(image_path, label_path)
                tasks[image_id] = SplitTask(image_id, image_path, label_path, stamp)
    if not tasks:
        raise ValueError(f"{sources[0].image_dir}: expected images with labels, found none")
    return list(tasks.values())


def _check_pairs(
    images: dict[str, Path],
    labels: dict[str, Path],
    image_dir: Path,
    config: SplitConfig,
    summary: SplitSummary,
) -> None:
    lonely = {
        "image without label": sorted(images.keys() - labels.keys()),
        "label without image": sorted(labels.keys() - images.keys()),
    }
    for reason, ids in lonely.items():
        if not ids:
            continue
        examples = ", ".join(ids[:_NUM_EXAMPLES])
        message = f"{image_dir}: {len(ids)} x {reason} ({examples}{', ...' if ids[3:] else ''})"
        if config.on_missing == "raise":
            raise ValueError(
                f"{message}; expected pairs of the same name: add the files, leave these out with "
                "on_missing='skip', or split without labels"
            )
        logger.warning("left out: %s", message)
        summary.skipped[reason] += len(ids)


def _stamp(image_path: Path, label_path: Path | None) -> str:
    states = [path.stat() for path in (image_path, label_path) if path is not None]
    return "/".join(f"{state.st_size}.{state.st_mtime_ns}" for state in states)


def _prepare_output(
    out_dir: Path, config: SplitConfig, tasks: Sequence[SplitTask], has_labels: bool
) -> dict[str, list[PatchRecord]]:
    """Make the folders and return the images that an earlier call finished."""
    out_dir.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = dataclasses.asdict(config)
    for policy in ("on_error", "on_missing", "on_bad_image"):  # may change between two calls
        del settings[policy]
    manifest.check_settings(out_dir, {**settings, "has_labels": has_labels})
    folders = [out_dir / manifest.IMAGE_FOLDER]
    if has_labels:
        folders.append(out_dir / manifest.LABEL_FOLDER)
    present = []
    for folder in folders:
        folder.mkdir(exist_ok=True)
        names = os.listdir(folder)
        for name in names:
            if name.startswith("."):  # temporary file of a killed call
                (folder / name).unlink()
        present.append({Path(name).stem for name in names if not name.startswith(".")})
    complete = set.intersection(*present)
    finished = manifest.read_finished_images(out_dir)
    stamps = {task.image_id: task.stamp for task in tasks}
    strangers = sorted(finished.keys() - stamps.keys())
    if strangers:
        raise ValueError(
            f"output folder {out_dir}: holds patches of {len(strangers)} images that are not among "
            f"the sources ({', '.join(strangers[:_NUM_EXAMPLES])}); choose another folder"
        )
    kept = {}
    for image_id, records in finished.items():
        fresh = all(
            record.source_stamp == stamps[image_id] and record.patch_id in complete
            for record in records
        )
        if records and fresh:
            kept[image_id] = records
            continue
        for record in records:
            (out_dir / record.file_name).unlink(missing_ok=True)
            (out_dir / manifest.LABEL_FOLDER / f"{record.patch_id}.txt").unlink(missing_ok=True)
    return kept


def _run(arguments: Sequence[tuple[Any, ...]], num_workers: int) -> Iterator[ImagePatches]:
    if num_workers <= 1 or len(arguments) <= 1:
        for argument in arguments:
            yield split_image(*argument)
        return
    with image_pool(min(num_workers, len(arguments))) as pool:
        futures = [pool.submit(split_image, *argument) for argument in arguments]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process died, mostly for lack of memory: use fewer workers; the same "
                "command goes on where it stopped"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _count_image(summary: SplitSummary, records: Iterable[PatchRecord]) -> None:
    summary.num_images += 1
    for record in records:
        summary.num_patches += 1
        summary.num_empty_patches += record.num_objects == 0
        summary.num_patch_objects += record.num_objects


def _log_summary(summary: SplitSummary) -> None:
    for reason, count in summary.skipped.items():
        logger.warning("left out: %d x %s", count, reason)
    if summary.turned_images:
        logger.warning("%s", describe_orientations(summary.turned_images))
    if summary.label_problems.counts:
        logger.warning("label lines left out or repaired: %s", summary.label_problems.summary())
