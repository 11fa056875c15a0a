"""The record of a split: one JSON line per patch, and the settings that made the patches."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcm_d2.files import LOCK_NAME, UnsafeNameError, checked_name, write_bytes_atomically

MANIFEST_NAME = "manifest.jsonl"
PARTIAL_NAME = "manifest.partial.jsonl"
SETTINGS_NAME = "split_settings.json"
IMAGE_FOLDER = "images"
LABEL_FOLDER = "labelTxt"


@dataclass(frozen=True)
class PatchRecord:
    """Where a patch comes from: ``source_xy = (patch_xy + (x0, y0)) / scale``.

    Attributes:
        patch_id: file stem, ``P0000__1024__x___y`` (window size, x and y in source pixels).
        file_name: image file, relative to the manifest's folder.
        image_id: stem of the source image.
        x0, y0: origin in pixels of the source image scaled by ``scale``.
        width, height: of the patch file, in pixels.
        scale: patch pixels per source pixel.
        num_objects: objects in the patch's label file; 0 without labels.
        source_stamp: sizes and times of the source files, to notice that they changed.
    """

    patch_id: str
    file_name: str
    image_id: str
    x0: float
    y0: float
    width: int
    height: int
    scale: float
    num_objects: int
    source_stamp: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a plain dict."""
        return dataclasses.asdict(self)


_REQUIRED = {
    item.name for item in dataclasses.fields(PatchRecord) if item.default is dataclasses.MISSING
}
_KNOWN = {item.name for item in dataclasses.fields(PatchRecord)}
_NUMBERS = ("x0", "y0", "width", "height", "scale", "num_objects")


def read_manifest(path: str | os.PathLike[str]) -> list[PatchRecord]:
    """Return the patches of a manifest file, in its order.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: with ``path:line`` when a line is not a patch record.
    """
    path = Path(path)
    records = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: expected the manifest of a split, found none; make the patches with "
            "tcm-d2 split, or run it again if it was interrupted"
        ) from None
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}:{line_number}: expected one JSON object, got {line[:60]!r} ({error}); "
                "run tcm-d2 split again"
            ) from None
        records.append(_to_record(row, f"{path}:{line_number}"))
    return records


def write_manifest(path: str | os.PathLike[str], records: Iterable[PatchRecord]) -> None:
    """Write a manifest file atomically."""
    lines = (json.dumps(record.to_json(), separators=(",", ":")) for record in records)
    write_bytes_atomically(path, "".join(f"{line}\n" for line in lines).encode("utf-8"))


def append_finished_image(
    path: str | os.PathLike[str], image_id: str, records: Iterable[PatchRecord]
) -> None:
    """Append one line that says an image is done: a line cut by a kill loses that image only."""
    row = {"image_id": image_id, "patches": [record.to_json() for record in records]}
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row, separators=(",", ":")) + "\n")


def read_finished_images(out_dir: str | os.PathLike[str]) -> dict[str, list[PatchRecord]]:
    """Return {image id: patches} of a finished or interrupted split; later lines win."""
    out_dir = Path(out_dir)
    finished: dict[str, list[PatchRecord]] = {}
    if (out_dir / MANIFEST_NAME).is_file():
        for record in read_manifest(out_dir / MANIFEST_NAME):
            finished.setdefault(record.image_id, []).append(record)
    partial = out_dir / PARTIAL_NAME
    if partial.is_file():
        for number, line in enumerate(partial.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # the line that a kill cut; its image is done again
                continue
            where = f"{partial}:{number}"
            if not isinstance(row, dict) or not isinstance(row.get("patches"), list):
                raise ValueError(
                    f"{where}: expected the patches of one image, got {line[:60]!r}; delete the "
                    "line, and its image is cut again"
                )
            image_id = checked_name(row.get("image_id"), where=f"{where}: image_id")
            finished[image_id] = [_to_record(record, where) for record in row["patches"]]
    return finished


def check_settings(out_dir: str | os.PathLike[str], settings: dict[str, Any]) -> None:
    """Write the settings into a fresh output folder, or compare them with those that are there.

    Raises:
        ValueError: when the folder holds patches made with other settings, or something else.
    """
    out_dir = Path(out_dir)
    path = out_dir / SETTINGS_NAME
    if not path.is_file():
        strangers = sorted(item.name for item in out_dir.iterdir() if item.name != LOCK_NAME)
        if strangers:
            raise ValueError(
                f"output folder {out_dir}: expected an empty or new folder or an interrupted "
                f"split, got other files ({', '.join(strangers[:3])}, ...); choose another folder"
            )
        write_bytes_atomically(path, (json.dumps(settings, indent=2) + "\n").encode("utf-8"))
        return
    written = json.loads(path.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(settings))
    changed = [
        f"{key} {written.get(key)!r} -> {wanted.get(key)!r}"
        for key in sorted(written.keys() | wanted.keys())
        if written.get(key) != wanted.get(key)
    ]
    if changed:
        raise ValueError(
            f"output folder {out_dir}: its patches were made with other settings "
            f"({'; '.join(changed)}); use the same settings to resume, or another folder"
        )


def _to_record(row: Any, where: str) -> PatchRecord:
    missing = sorted(_REQUIRED - row.keys()) if isinstance(row, dict) else sorted(_REQUIRED)
    if missing:
        raise ValueError(
            f"{where}: expected a patch record, got one without {', '.join(missing)}; run "
            "tcm-d2 split again"
        )
    for key in _NUMBERS:
        if type(row[key]) not in (int, float) or not math.isfinite(row[key]):
            raise ValueError(
                f"{where}: {key}: expected a number, got {row[key]!r}; run tcm-d2 split again"
            )
    record = PatchRecord(**{key: row[key] for key in _KNOWN if key in row})
    for key in ("patch_id", "image_id"):
        checked_name(getattr(record, key), where=f"{where}: {key}")
    folder, _, name = str(record.file_name).rpartition("/")
    if folder != IMAGE_FOLDER:
        raise UnsafeNameError(
            f"{where}: file_name: expected {IMAGE_FOLDER}/<name>, got "
            f"{str(record.file_name)[:80]!r}; run tcm-d2 split again"
        )
    checked_name(name, where=f"{where}: file_name")
    return record
