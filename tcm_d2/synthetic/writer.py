"""Write an embedded data set in DOTA's own folder layout and label format."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

from tcm_d2.data.dota.labels import write_label
from tcm_d2.files import write_bytes_atomically
from tcm_d2.synthetic.config import SyntheticConfig
from tcm_d2.synthetic.render import render_image

logger = logging.getLogger(__name__)

SPLITS: tuple[str, ...] = ("train", "val")
# Images per task handed to a worker process.
_CHUNK = 4
# Fewer images than this are rendered faster than worker processes start.
_MIN_IMAGES_FOR_WORKERS = 12


@dataclass(frozen=True)
class SyntheticSummary:
    """What was written.

    Attributes:
        root: folder with ``train`` and ``val``, each with ``images`` and ``labelTxt``.
        num_images: per split.
        num_objects: per split and class name, difficult ones included.
        num_difficult: per split.
    """

    root: Path
    num_images: dict[str, int]
    num_objects: dict[str, Counter[str]]
    num_difficult: dict[str, int]


@dataclass(frozen=True)
class _Task:
    folder: Path
    config: SyntheticConfig
    seed: int
    split_index: int
    image_index: int


def make_synthetic_dota(
    root: str | os.PathLike[str],
    *,
    num_train: int,
    num_val: int,
    image_size_px: int,
    seed: int,
    config: SyntheticConfig | None = None,
    objects_scale: float | None = None,
    classes: Sequence[str] | None = None,
    num_workers: int | None = None,
) -> SyntheticSummary:
    """Render an embedded data set and write it as DOTA does.

    The files are ``root/{train,val}/images/P0000.png`` and ``root/{train,val}/labelTxt/P0000.txt``
    (imagesource and gsd head lines, corners with one decimal from the object's front left,
    difficult flag). Validation images have numbers after those of training. The bytes depend on
    the arguments and the installed OpenCV and NumPy only, not on ``num_workers``. Existing files of
    the same names are replaced; others are left alone.

    Args:
        root: made where missing.
        num_train: number of training images.
        num_val: number of validation images.
        image_size_px: side of the square images, at least 128.
        seed: >= 0; the two splits share no scene.
        config: settings; by default ``SyntheticConfig()``, DOTA's statistics. Its image size is
            replaced by ``image_size_px``.
        objects_scale: replaces the setting of the same name.
        classes: replaces the setting of the same name.
        num_workers: processes; None takes the machine's, 0 or 1 renders in this process. With
            more, call from under ``if __name__ == "__main__"``, as for any process pool.

    Raises:
        ValueError: negative numbers, unknown classes, bad settings.
    """
    for name, value in (("num_train", num_train), ("num_val", num_val), ("seed", seed)):
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{name}: expected an int >= 0, got {value!r}")
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"num_workers: expected None or an int >= 0, got {num_workers!r}")
    config = replace(config or SyntheticConfig(), image_size_px=image_size_px)
    if objects_scale is not None:
        config = replace(config, objects_scale=objects_scale)
    if classes is not None:
        config = replace(config, classes=tuple(classes))
    root = Path(root)
    tasks = []
    for split_index, (split, count) in enumerate(zip(SPLITS, (num_train, num_val))):
        for folder in ("images", "labelTxt"):
            (root / split / folder).mkdir(parents=True, exist_ok=True)
        tasks += [_Task(root / split, config, seed, split_index, i) for i in range(count)]
    offsets = (0, num_train)
    jobs = [(task, f"P{offsets[task.split_index] + task.image_index:04d}") for task in tasks]
    return _summarize(root, (num_train, num_val), tasks, _run(jobs, num_workers))


def _run(jobs: list[tuple[_Task, str]], num_workers: int | None) -> list[Counter[str]]:
    if num_workers is None:
        num_workers = os.cpu_count() or 1
    if num_workers <= 1 or len(jobs) < _MIN_IMAGES_FOR_WORKERS:
        return [_write_image(job) for job in jobs]
    # Fresh interpreters: forking a process with torch's or OpenCV's threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(num_workers, len(jobs)),
        mp_context=context,
        initializer=cv2.setNumThreads,
        initargs=(1,),
    ) as pool:
        return list(pool.map(_write_image, jobs, chunksize=_CHUNK))


def _write_image(job: tuple[_Task, str]) -> Counter[str]:
    """Render and write one image; returns its objects per class and, under "", difficult ones."""
    task, stem = job
    rendered = render_image(
        task.config, seed=task.seed, split_index=task.split_index, image_index=task.image_index
    )
    packed = cv2.imencode(".png", rendered.image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])[1]
    write_bytes_atomically(task.folder / "images" / f"{stem}.png", packed.tobytes())
    write_label(task.folder / "labelTxt" / f"{stem}.txt", rendered.label)
    counts = Counter(obj.class_name for obj in rendered.label.objects)
    counts[""] = sum(obj.difficult for obj in rendered.label.objects)
    return counts


def _summarize(
    root: Path, num_images: tuple[int, int], tasks: list[_Task], counts: list[Counter[str]]
) -> SyntheticSummary:
    num_objects: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    difficult = dict.fromkeys(SPLITS, 0)
    for task, count in zip(tasks, counts):
        split = SPLITS[task.split_index]
        difficult[split] += count.pop("")
        num_objects[split].update(count)
    for split in SPLITS:
        logger.info(
            "%s: %d images, %d objects (%d difficult) in %s",
            split,
            num_images[SPLITS.index(split)],
            sum(num_objects[split].values()),
            difficult[split],
            root / split,
        )
    return SyntheticSummary(root, dict(zip(SPLITS, num_images)), num_objects, difficult)
