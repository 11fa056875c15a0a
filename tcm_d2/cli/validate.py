"""The command tcm-d2 validate."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from tcm_d2.data.conversion import convert_annotations, read_class_names
from tcm_d2.data.dota.labels import DotaObject
from tcm_d2.data.formats.reading import ReadOptions
from tcm_d2.data.images import BadImageError, list_images, read_image
from tcm_d2.data.validation import (
    Finding,
    ValidationReport,
    foreign_findings,
    validate_dataset,
)
from tcm_d2.evaluation.files.escapes import describe_escaped_ids
from tcm_d2.evaluation.scoring.ground_truth import GroundTruthScore, score_ground_truth
from tcm_d2.structures.conversions import quads_to_boxes
from tcm_d2.visualize.draw import draw_boxes
from tcm_d2.visualize.sheets import save_image

SHOWN_PER_KIND = 5


def describe(report: ValidationReport, preflight: GroundTruthScore) -> str:
    """Return the report as text."""
    stats = report.statistics
    lines = [
        f"{stats['images']} images, {stats['images without objects']} of them without objects; "
        f"{stats['objects']} objects, {stats['difficult objects']} of them difficult",
        "",
        tabulate(list(_class_rows(stats)), CLASS_HEADINGS, floatfmt=".1f"),
        "",
    ]
    for name in ("image width px", "image height px", "objects per image", "object area px2"):
        values = ", ".join(f"{key} {value:g}" for key, value in stats[name].items())
        lines.append(f"{name}: {values or 'unknown'}")
    lines.append("")
    for (severity, kind), count in report.counts().items():
        lines.append(f"{severity}: {count} x {kind}")
        same = [f for f in report.findings if (f.severity, f.kind) == (severity, kind)]
        for finding in same[:SHOWN_PER_KIND]:
            place = "" if finding.message.startswith(finding.where) else f"{finding.where}: "
            lines.append(f"    {place}{finding.message}")
        if count > SHOWN_PER_KIND:
            lines.append(f"    ... and {count - SHOWN_PER_KIND} more (all are in report.json)")
    if not report.findings:
        lines.append("nothing found that is wrong")
    lines += ["", *_preflight_lines(preflight)]
    return "\n".join(lines)


CLASS_HEADINGS = ["class", "objects", "long side px: 5%", "50%", "95%", "short side px: 5%", "50%"]


def _class_rows(stats: dict[str, Any]) -> Iterator[list[Any]]:
    for name, count in stats["objects per class"].items():
        long_px, short_px = stats["long side px"].get(name), stats["short side px"].get(name)
        if not long_px:
            yield [name, count]
            continue
        sides = [long_px["5%"], long_px["median"], long_px["95%"], short_px["5%"]]
        yield [name, count, *sides, short_px["median"]]


def _preflight_lines(preflight: GroundTruthScore) -> Iterator[str]:
    scored = {name: ap for name, ap in preflight.ap.items() if not math.isnan(ap)}
    if not scored:
        yield "pre-flight: no class has objects that count, so nothing can be scored"
        return
    mean = float(np.mean(list(scored.values())))
    state = "passed" if preflight.passed else "FAILED"
    yield (
        f"pre-flight {state}: the labels as predictions give mean AP50 {mean:.4f} over "
        f"{len(scored)} classes (1.0000 is right)"
    )
    for name, ap in scored.items():
        if ap < 1 - 1e-9:
            yield f"    {name}: {ap:.4f}"
    for fault in preflight.faults[:SHOWN_PER_KIND]:
        yield f"    {fault}"
    if len(preflight.faults) > SHOWN_PER_KIND:
        yield f"    ... and {len(preflight.faults) - SHOWN_PER_KIND} more"
    if preflight.num_poor_boxes:
        yield (
            f"    {preflight.num_poor_boxes} of {preflight.num_objects} objects are so far from a "
            "rectangle that the best box misses them at IoU 0.5"
        )


def draw_sample(
    args: argparse.Namespace, objects: dict[str, list[DotaObject]], class_names: Sequence[str]
) -> None:
    """Draw the objects of some images, those with the most kinds of objects among them first."""
    images = list_images(args.images)
    drawable = [image_id for image_id in objects if image_id in images and objects[image_id]]
    order = np.random.default_rng(args.seed).permutation(len(drawable))
    index = {name: number for number, name in enumerate(class_names)}
    folder = args.output / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in [drawable[number] for number in order[: args.num_pictures]]:
        try:
            image = read_image(images[image_id], channel_order="RGB")
        except BadImageError:
            continue
        quads = np.array([obj.quad for obj in objects[image_id]]).reshape(-1, 4, 2)
        picture = draw_boxes(
            image,
            quads_to_boxes(quads),
            labels=[index[obj.class_name] for obj in objects[image_id]],
            class_names=class_names,
        )
        save_image(folder / f"{image_id}.png", picture)


def write_report(out: Path, text: str, report: ValidationReport, result: GroundTruthScore) -> None:
    """Write report.txt and report.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.txt").write_text(f"{text}\n", encoding="utf-8")
    content = {
        "num_errors": report.num_errors,
        "num_warnings": len(report.findings) - report.num_errors,
        "findings": [finding._asdict() for finding in report.findings],
        "statistics": report.statistics,
        "preflight": {
            "passed": result.passed,
            "ap50": {name: None if math.isnan(ap) else ap for name, ap in result.ap.items()},
            "faults": result.faults,
            "num_poor_boxes": result.num_poor_boxes,
        },
    }
    (out / "report.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def read_foreign(args: argparse.Namespace, folder: Path) -> list[Finding]:
    """Write label files out of annotations of another format; return what is wrong in these."""
    classes = None if args.classes_file is None else read_class_names(args.classes_file)
    if classes is None and args.classes is not None:
        classes = dict(enumerate(args.classes))
    summary = convert_annotations(
        args.annotations,
        folder,
        source_format=args.format,
        image_dir=args.images,
        options=ReadOptions(classes=classes, on_error="skip", keep_all=True),
    )
    args.labels = folder
    return foreign_findings(summary.read, str(args.annotations))


def name_findings(report: ValidationReport) -> list[Finding]:
    """Return a finding about image ids that result files of the DOTA server cannot hold."""
    message = describe_escaped_ids(sorted(report.objects))
    return [Finding("warning", "names with blanks", "images", message)] if message else []


def check(args: argparse.Namespace, found: list[Finding]) -> int:
    """Check the data set, print the report and return the exit status."""
    report = validate_dataset(
        args.images,
        args.labels,
        args.classes,
        decode_images=not args.no_decode,
        num_workers=args.workers,
        wrap_progress=lambda facts, total: tqdm(
            facts, total=total, unit="image", disable=args.quiet
        ),
    )
    report.findings = [*found, *report.findings, *name_findings(report)]
    class_names = args.classes or list(report.statistics["objects per class"])
    result = score_ground_truth(report.objects, class_names)
    text = describe(report, result)
    if args.output is not None:
        write_report(args.output, text, report, result)
        draw_sample(args, report.objects, class_names)
    print(text)
    failed = report.num_errors or not result.passed or (args.strict and report.findings)
    return int(bool(failed))


def run(args: argparse.Namespace) -> int:
    """Run the command line and return its exit status."""
    try:
        with TemporaryDirectory() as converted:
            found = [] if args.annotations is None else read_foreign(args, Path(converted))
            return check(args, found)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
