"""Detect in many files: every file's results are written as soon as they are there.

A run that is stopped, in whatever way, goes on where it was when it is started again with the same
arguments. A file that cannot be read is reported and left out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tcm_d2.data.formats.contract import check_written
from tcm_d2.data.raster_reader.gdal import has_rasterio
from tcm_d2.data.raster_reader.geo_reference import NEEDS_GEO
from tcm_d2.evaluation.files.escapes import describe_escaped_ids
from tcm_d2.evaluation.files.task_files import write_task1
from tcm_d2.files import write_bytes_atomically
from tcm_d2.inference.annotation_files import write_annotation_files
from tcm_d2.inference.detector import Detector
from tcm_d2.inference.geo_package import write_geopackage
from tcm_d2.inference.inputs import expand_inputs as expand_inputs
from tcm_d2.inference.large_image import ResumeFile
from tcm_d2.inference.rasters import open_scene
from tcm_d2.inference.results import Detections, GeoJSONSystem
from tcm_d2.messages import some_names
from tcm_d2.structures.detections import ClassDetections
from tcm_d2.visualize.draw import save_image

logger = logging.getLogger(__name__)

Status = Literal["done", "done before", "failed"]
PICTURE_FORMATS = ("png", "jpg")
# What is found so far in pictures that are not done.
PARTIAL_FOLDER = "partial"
_FINGERPRINT_KEY = "fingerprint"
_SETTINGS_KEY = "settings"
_MISSING_KEY = "missing"


@dataclass(frozen=True, kw_only=True)
class FileRun:
    """What to write, and where.

    Attributes:
        output_dir: gets the folders ``json``, ``geojson``, ``labelTxt``, ``pictures``, ``Task1``
            and the file ``coco.json``.
        geojson_crs: see `Detections.to_geojson`; for "wgs84" a file without position gets no
            GeoJSON, which is said.
        picture_format: "png" or "jpg"; None for no pictures.
        picture_side_px: larger pictures are shrunk to this.
        read_options: of `open_scene`.
        show_progress: a bar for each file of several windows.
        annotation_formats: of labelling tools, each written into a folder of its name; see
            `write_annotation_files`.
        geopackage: detections of files with a position in one ``detections.gpkg``.
    """

    output_dir: Path
    geojson_crs: GeoJSONSystem
    picture_format: str | None
    picture_side_px: int
    read_options: Mapping[str, Any] = field(default_factory=dict)
    show_progress: bool = False
    annotation_formats: tuple[str, ...] = ()
    geopackage: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for values that do not fit."""
        if self.geopackage and not has_rasterio():
            raise ModuleNotFoundError(f"rasterio is needed for a GeoPackage; {NEEDS_GEO}")
        for name in self.annotation_formats:
            check_written(name)
        if self.picture_format not in (None, *PICTURE_FORMATS):
            raise ValueError(
                f"picture_format: expected one of {PICTURE_FORMATS}, got {self.picture_format!r}"
            )


class FileOutcome(NamedTuple):
    """What became of a file.

    Attributes:
        path: of the file.
        image_id: the name of its results.
        status: "done before" by an earlier run, with the same arguments and file.
        num_detections: 0 where it failed.
        seconds: that it took.
        message: why it failed, or which result it does not have; names the file.
    """

    path: Path
    image_id: str
    status: Status
    num_detections: int
    seconds: float
    message: str = ""


def name_results(paths: Sequence[Path]) -> list[str]:
    """Return a different name for the results of each file: its stem, or more where that is taken.

    It depends on the list of files only, so that a second run finds the results of the first.
    """
    stems = [path.stem for path in paths]
    names: list[str] = []
    for path, stem in zip(paths, stems):
        name = stem
        if stems.count(stem) > 1:
            name = f"{path.parent.name or 'root'}_{stem}_{path.suffix[1:].lower()}"
        number, unique = 2, name
        while unique in names:
            unique, number = f"{name}_{number}", number + 1
        names.append(unique)
    return names


def run_files(
    detector: Detector,
    paths: Sequence[Path],
    run: FileRun,
    *,
    report: Callable[[FileOutcome], None] | None = None,
) -> list[FileOutcome]:
    """Detect in files and write what was found.

    Args:
        detector: see `Detector.from_pretrained`.
        paths: of the files.
        run: what to write, and where.
        report: called after each file.

    Returns:
        One outcome per file, in order.

    Raises:
        MemoryError: the device has too little memory for one window.
        OSError: the results cannot be written.
    """
    outcomes: list[FileOutcome] = []
    names = name_results(paths)
    if escaped := describe_escaped_ids(names):
        logger.warning("%s", escaped)
    run.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        for path, name in zip(paths, names):
            outcomes.append(_run_file(detector, path, name, run))
            if report is not None:
                report(outcomes[-1])
    finally:
        # Of what is there, also when the run is interrupted, and from runs before with these
        # settings.
        _write_summaries(detector, names, run)
        _remove_if_empty(run.output_dir / PARTIAL_FOLDER)
    return outcomes


def _run_file(detector: Detector, path: Path, name: str, run: FileRun) -> FileOutcome:
    started = time.monotonic()
    result_file = run.output_dir / "json" / f"{name}.json"
    try:
        fingerprint = _fingerprint(detector, path, run)
        before = _read_result(result_file)
        is_same = before is not None and before.get(_FINGERPRINT_KEY) == fingerprint
        if before is not None and is_same and _SETTINGS_KEY in before:
            num_detections = len(before["detections"])
            missing = str(before.get(_MISSING_KEY, ""))
            return FileOutcome(path, name, "done before", num_detections, 0.0, missing)
        _report_replaced(before, path, name)
        resume = ResumeFile(run.output_dir / PARTIAL_FOLDER / f"{name}.npz", fingerprint)
        with open_scene(path, **run.read_options) as scene:
            found = detector.detect(
                scene,
                path=os.fspath(path),
                show_progress=run.show_progress,
                resume=resume,
                read_options=dict(run.read_options),
            )
            found = replace(found, image_id=name)
            picture = None
            if run.picture_format is not None:
                picture = found.draw(scene.read_overview(run.picture_side_px))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        message = str(error) if path.name in str(error) else f"{path}: {error}"
        logger.info("left out: %s", message)
        return FileOutcome(path, name, "failed", 0, time.monotonic() - started, message)
    missing = _write_results(found, picture, run)
    # Last: its presence says that all is there.
    state = {_FINGERPRINT_KEY: fingerprint, _SETTINGS_KEY: _settings(detector, run)}
    if missing:
        state[_MISSING_KEY] = missing
    _write_json(result_file, {**state, **found.to_dict()})
    resume.path.unlink(missing_ok=True)
    return FileOutcome(path, name, "done", len(found), time.monotonic() - started, missing)


def _write_results(found: Detections, picture: np.ndarray | None, run: FileRun) -> str:
    """Write all results that there can be; return why one is missing, or ""."""
    folder, name, missing = run.output_dir, found.image_id, ""
    geojson = folder / "geojson" / f"{name}.geojson"
    try:
        _write_json(geojson, found.to_geojson(crs=run.geojson_crs))
    except ValueError as error:
        # One of an earlier run, in another system, would be taken for that of this run.
        geojson.unlink(missing_ok=True)
        missing = f"{found.path}: no GeoJSON is written: {error}"
    _write(folder / "labelTxt" / f"{name}.txt", found.to_dota().encode())
    if picture is not None:
        save_image(folder / "pictures" / f"{name}.{run.picture_format}", picture)
    return missing


def _report_replaced(before: Mapping[str, Any] | None, path: Path, name: str) -> None:
    earlier = str(before.get("path", "")) if before is not None else ""
    if earlier and Path(earlier).resolve() != path.resolve():
        logger.warning(
            "%s: replaces the results %r, which are of %s; another output folder keeps both",
            path,
            name,
            earlier,
        )


def _write_summaries(detector: Detector, names: Sequence[str], run: FileRun) -> None:
    """Write the files that hold all pictures' detections, of those whose results are there."""
    folder, classes, settings = run.output_dir, detector.classes, _settings(detector, run)
    earlier = {path.name[: -len(".json")] for path in (folder / "json").glob("*.json")}
    seen: set[Path] = set()  # a picture may have had another name in an earlier run
    others: list[str] = []
    results = []
    rows: dict[str, list[ClassDetections]] = {}
    coco: dict[str, Any] = {"images": [], "annotations": []}
    coco["categories"] = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    for name in [*names, *sorted(earlier.difference(names))]:
        tree = _read_result(folder / "json" / f"{name}.json")
        if tree is None or Path(str(tree.get("path"))).resolve() in seen:
            continue
        if tuple(tree["classes"]) != tuple(classes) or tree.get(_SETTINGS_KEY) != settings:
            others.append(name)
            continue
        seen.add(Path(str(tree.get("path"))).resolve())
        found = Detections.from_dict(tree)
        results.append(found)
        for class_name, own in found.to_task1().items():
            rows.setdefault(class_name, []).append(own)
        part = found.to_coco(
            image_number=len(coco["images"]) + 1, first_annotation=len(coco["annotations"]) + 1
        )
        coco["images"] += part["images"]
        coco["annotations"] += part["annotations"]
    joined = {
        name: ClassDetections(
            [image_id for part in parts for image_id in part.image_ids],
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.quads for part in parts]),
        )
        for name, parts in rows.items()
    }
    if joined:
        write_task1(folder / "Task1", joined, classes=list(joined))
    _write_json(folder / "coco.json", coco)
    write_annotation_files(results, folder, run.annotation_formats)
    if run.geopackage:
        without = write_geopackage(folder / "detections.gpkg", results)
        if without:
            logger.warning(
                "%s: not in it are the detections of %s",
                folder / "detections.gpkg",
                some_names(without),
            )
    if others:
        logger.warning(
            "%s: results of another detector or other settings, not in Task1 and coco.json: %s; "
            "another output folder keeps them apart",
            folder / "json",
            some_names(others),
        )


def _settings(detector: Detector, run: FileRun) -> str:
    """Return a text that changes with what decides on the detections of all files."""
    facts = [
        detector.identity,
        repr(detector.config),
        detector.classes,
        sorted(run.read_options.items()),
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _fingerprint(detector: Detector, path: Path, run: FileRun) -> str:
    """Return a text that changes with the file, the detector and how both are used."""
    stat = path.stat()
    facts = [
        os.fspath(path.resolve()),
        stat.st_size,
        stat.st_mtime_ns,
        detector.identity,
        repr(detector.config),
        detector.classes,
        sorted(run.read_options.items()),
        run.geojson_crs,
        (run.picture_format, run.picture_side_px),
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _read_result(path: Path) -> dict[str, Any] | None:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return tree if isinstance(tree, dict) and "detections" in tree else None


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
    _write(path, json.dumps(tree, allow_nan=False).encode())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, content)
