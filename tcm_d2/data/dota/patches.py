"""Cut one image and its label file into patches, with the rules of a `SplitConfig`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from tcm_d2.data.dota import manifest
from tcm_d2.data.dota.clipping import clip_quads_to_window
from tcm_d2.data.dota.labels import (
    DotaLabel,
    DotaObject,
    LabelProblems,
    OnError,
    read_label,
    write_label,
)
from tcm_d2.data.dota.manifest import PatchRecord
from tcm_d2.data.dota.patch_pixels import PatchPlan, encode_patches, open_rows
from tcm_d2.data.dota.windows import (
    keep_covered_windows,
    quads_cut_by_window,
    quads_window_iof,
    sliding_windows,
)
from tcm_d2.data.images import BadImageError, read_head
from tcm_d2.data.raster_reader.orientation import UPRIGHT
from tcm_d2.files import write_bytes_atomically

_TRUNCATED_MARK = 2


@dataclass(frozen=True)
class SplitConfig:
    """How images are cut; the defaults are the published single-scale split.

    Attributes:
        patch_size_px, gap_px: window side and overlap at rate 1.
        rates: a rate r cuts windows of ``int(patch_size_px / r)`` with ``int(gap_px / r)`` overlap.
        min_object_iof: an object stays in a patch when at least this share of its area does.
        min_image_rate: a window stays when more than this share of it lies inside the image.
        pad_rgb: colour beyond the image's right and bottom border.
        resize_patches: save windows of other rates at patch_size_px.
        keep_empty: write patches without objects too (always so without labels).
        truncated: objects that reach beyond their patch stay "whole", as mmrotate writes them, or
            become a "clip": the part inside, with four corners (see `clip_quads_to_window`).
        mark_truncated: write difficulty 2 for objects that reach beyond their patch.
        on_error: bad label lines, see `read_label`.
        on_missing: "raise" or "skip" (counted) images without label and labels without image.
        on_bad_image: "raise" or "skip" (counted) unreadable images.
        image_suffix: file format of the patches.
    """

    patch_size_px: int = 1024
    gap_px: int = 200
    rates: tuple[float, ...] = (1.0,)
    min_object_iof: float = 0.7
    min_image_rate: float = 0.6
    # mmrotate writes (104, 116, 124) into OpenCV's blue, green, red order.
    pad_rgb: tuple[int, int, int] = (124, 116, 104)
    resize_patches: bool = True
    keep_empty: bool = True
    truncated: Literal["whole", "clip"] = "whole"
    mark_truncated: bool = False
    on_error: OnError = "raise"
    on_missing: Literal["raise", "skip"] = "raise"
    on_bad_image: Literal["raise", "skip"] = "raise"
    image_suffix: str = ".png"

    def __post_init__(self) -> None:
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"rates: expected positive numbers, got {self.rates}")
        if not self.patch_size_px > self.gap_px >= 0:
            raise ValueError(
                f"gap_px: expected 0 <= gap < patch size {self.patch_size_px}, got {self.gap_px}"
            )
        for name in ("min_object_iof", "min_image_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0..1, got {getattr(self, name)}")
        if self.truncated not in ("whole", "clip"):
            raise ValueError(f"truncated: expected 'whole' or 'clip', got {self.truncated!r}")
        if self.image_suffix not in (".png", ".jpg", ".bmp", ".tif"):
            raise ValueError(
                f"image_suffix: expected .png, .jpg, .bmp or .tif, got {self.image_suffix!r}"
            )


SINGLE_SCALE = SplitConfig()
MULTI_SCALE = SplitConfig(gap_px=500, rates=(0.5, 1.0, 1.5))


class SplitTask(NamedTuple):
    """One image to cut; ``stamp`` tells its files' sizes and times."""

    image_id: str
    image_path: Path
    label_path: Path | None
    stamp: str


class ImagePatches(NamedTuple):
    """The patches of one image.

    Attributes:
        task: the image.
        records: of its patches.
        num_source_objects: objects in its label file.
        label_problems: lines left out or repaired.
        bad_image: why there are no patches; empty otherwise.
        is_turned: a viewer would turn the image, by its EXIF orientation; patches are as stored.
    """

    task: SplitTask
    records: list[PatchRecord]
    num_source_objects: int
    label_problems: LabelProblems
    bad_image: str
    is_turned: bool = False


def split_image(
    task: SplitTask, out_dir: Path | None, config: SplitConfig, classes: Sequence[str] | None
) -> ImagePatches:
    """Cut one image; with ``out_dir`` None only count.

    Raises:
        LabelError, BadImageError: unless the config says to skip; both name the file.
    """
    problems = LabelProblems()
    label = DotaLabel()
    if task.label_path is not None:
        label = read_label(
            task.label_path, classes=classes, on_error=config.on_error, problems=problems
        )
    quads = np.array([obj.quad for obj in label.objects], dtype=np.float64).reshape(-1, 4, 2)
    records: list[PatchRecord] = []
    try:
        size_hw, orientation = read_head(task.image_path)
        windows = _windows_of(*size_hw, config)
        inside = quads_window_iof(quads, windows) >= config.min_object_iof
        if task.label_path is not None and not config.keep_empty:
            filled = inside.any(axis=0)
            windows, inside = windows[filled], inside[:, filled]
        records = [
            _patch_record(task, window, int(members.sum()), config)
            for window, members in zip(windows, inside.T)
        ]
        if out_dir is not None and records:
            _write_images(task, size_hw, windows, records, out_dir, config)
    except (BadImageError, FileNotFoundError) as error:
        if out_dir is not None:  # patches above the damaged rows
            for record in records:
                (out_dir / record.file_name).unlink(missing_ok=True)
        if config.on_bad_image == "raise":
            raise
        return ImagePatches(task, [], len(label.objects), problems, str(error))
    if out_dir is not None and task.label_path is not None:
        for window, members, record in zip(windows, inside.T, records):
            patch_label = _patch_label(
                label, quads, np.flatnonzero(members), window, record, config
            )
            write_label(out_dir / manifest.LABEL_FOLDER / f"{record.patch_id}.txt", patch_label)
    return ImagePatches(
        task, records, len(label.objects), problems, "", is_turned=orientation != UPRIGHT
    )


def _write_images(
    task: SplitTask,
    size_hw: tuple[int, int],
    windows: np.ndarray,
    records: Sequence[PatchRecord],
    out_dir: Path,
    config: SplitConfig,
) -> None:
    plans = [
        PatchPlan((x1, y1, x2, y2), record.width)
        for (x1, y1, x2, y2), record in zip(windows.tolist(), records)
    ]
    with open_rows(task.image_path, size_hw) as source:
        if source.size_hw != size_hw:
            raise BadImageError(
                f"{task.image_path}: expected (height, width) {size_hw} as its head says, got "
                f"{source.size_hw}; write the file again"
            )
        contents = encode_patches(source, plans, pad_rgb=config.pad_rgb, suffix=config.image_suffix)
        for index, content in contents:
            write_bytes_atomically(out_dir / records[index].file_name, content)


def _windows_of(height: int, width: int, config: SplitConfig) -> np.ndarray:
    windows = [
        sliding_windows(
            height,
            width,
            window_px=int(config.patch_size_px / rate),
            gap_px=int(config.gap_px / rate),
        )
        for rate in config.rates
    ]
    return keep_covered_windows(
        np.concatenate(windows), height, width, min_image_rate=config.min_image_rate
    )


def _patch_record(
    task: SplitTask, window: np.ndarray, num_objects: int, config: SplitConfig
) -> PatchRecord:
    x, y, window_px = int(window[0]), int(window[1]), int(window[2] - window[0])
    side_px = config.patch_size_px if config.resize_patches else window_px
    scale = side_px / window_px
    patch_id = f"{task.image_id}__{window_px}__{x}___{y}"
    return PatchRecord(
        patch_id=patch_id,
        file_name=f"{manifest.IMAGE_FOLDER}/{patch_id}{config.image_suffix}",
        image_id=task.image_id,
        x0=x * scale,
        y0=y * scale,
        width=side_px,
        height=side_px,
        scale=scale,
        num_objects=num_objects,
        source_stamp=task.stamp,
    )


def _patch_label(
    label: DotaLabel,
    quads: np.ndarray,
    members: np.ndarray,
    window: np.ndarray,
    record: PatchRecord,
    config: SplitConfig,
) -> DotaLabel:
    """Return the members' objects in patch pixels."""
    cut = quads_cut_by_window(quads[members], window)
    kept = quads[members]
    if config.truncated == "clip":
        kept = clip_quads_to_window(kept, window)
    moved = (kept - window[:2]) * record.scale
    objects = []
    for index, quad, is_cut in zip(members.tolist(), moved.reshape(-1, 8).tolist(), cut.tolist()):
        obj = label.objects[index]
        difficult = _TRUNCATED_MARK if is_cut and config.mark_truncated else obj.difficult
        objects.append(DotaObject(tuple(quad), obj.class_name, difficult))
    gsd = None if label.gsd is None else label.gsd / record.scale
    return DotaLabel(objects, label.image_source, gsd)
