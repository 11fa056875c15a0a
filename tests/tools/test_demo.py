"""tools/demo.py: many files, results in all forms, interruptions."""

from __future__ import annotations

import copy
import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tcm_d2.cli import predict
from tcm_d2.cli.main import run_command
from tcm_d2.cli.options.predict import parse_arguments
from tcm_d2.evaluation.files.task_files import read_task1
from tcm_d2.inference import large_image
from tcm_d2.inference.batch_run import FileRun, expand_inputs, name_results, run_files
from tcm_d2.inference.detector import Detector
from tests.conftest import REPO_DIR
from tests.inference.small_run import noise_image, write_run

SCRIPT = REPO_DIR / "tools" / "demo.py"
# Saves after each batch, and stops in the sixth.
DRIVER = """
import runpy, sys, time
import torch
import tcm_d2.inference.large_image as large
torch.set_num_threads(1)  # as in the tests: sums of several threads round otherwise
large.SAVE_EVERY_S = 0.0
detect_batch, seen = large._detect_batch, []
def slow(*given, **options):
    seen.append(1)
    print("batch", len(seen), flush=True)
    if len(seen) == 6:
        time.sleep(300)
    return detect_batch(*given, **options)
large._detect_batch = slow
sys.argv[0] = {script!r}
runpy.run_path({script!r}, run_name="__main__")
"""
# An untrained head answers with about 0.005.
LOW = 0.004


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "out")


@pytest.fixture(scope="module")
def detector(run_dir: Path) -> Detector:
    return Detector.from_pretrained(run_dir, device="cpu", score_threshold=LOW)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), noise_image(100, 150))
    cv2.imwrite(str(folder / "b.tif"), noise_image(64, 64, seed=1))
    (folder / "broken.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("no picture, and not taken for one")
    return folder


def _file_run(folder: Path, **options: object) -> FileRun:
    values = {"geojson_crs": "image", "picture_format": "png", "picture_side_px": 64}
    return FileRun(output_dir=folder, **{**values, **options})  # type: ignore[arg-type]


def test_inputs(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures.parent)
    names = ["pictures/a.png", "pictures/b.tif", "pictures/broken.jpg"]
    assert list(map(str, expand_inputs(["pictures"]))) == names
    assert list(map(str, expand_inputs(["pictures/*.tif", "pictures/b.tif"]))) == names[1:2]
    assert list(map(str, expand_inputs(["**/*.png"]))) == names[:1]
    Path("nothing").mkdir()
    for given, message in {
        "pictures/c.png": r"input 'pictures/c\.png': no such file or folder",
        "pictures/*.jp2": r"the pattern matches no image",
        "nothing": r"a folder without images \(\.png",
    }.items():
        with pytest.raises(FileNotFoundError, match=message):
            expand_inputs([given])


def test_results_of_equal_names_stay_apart() -> None:
    paths = [Path(p) for p in ("a/P1.png", "b/P1.png", "b/P1.tif", "c/P2.png", "x/a/P1.png")]
    names = name_results(paths)
    assert names == ["a_P1_png", "b_P1_png", "b_P1_tif", "P2", "a_P1_png_2"]


def test_all_results_are_written_and_agree(
    pictures: Path, tmp_path: Path, detector: Detector
) -> None:
    out = tmp_path / "out"
    outcomes = run_files(detector, expand_inputs([pictures]), _file_run(out))
    assert [o.status for o in outcomes] == ["done", "done", "failed"]
    assert "broken.jpg" in outcomes[2].message
    num = outcomes[0].num_detections
    assert num > 3
    rows = json.loads((out / "json" / "a.json").read_text())["detections"]
    features = json.loads((out / "geojson" / "a.geojson").read_text())["features"]
    label_rows = (out / "labelTxt" / "a.txt").read_text().splitlines()
    assert len(rows) == len(features) == len(label_rows) == num
    task1 = read_task1(out / "Task1")
    assert sum(r.image_ids.count("a") for r in task1.values()) == num
    coco = json.loads((out / "coco.json").read_text())
    assert [i["file_name"] for i in coco["images"]] == [str(o.path) for o in outcomes[:2]]
    assert len(coco["annotations"]) == num + outcomes[1].num_detections
    assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"])
    picture = cv2.imread(str(out / "pictures" / "a.png"))
    assert picture.shape == (43, 64, 3)
    assert not list((out / "partial").glob("*")) and not list(out.rglob(".*"))


def test_blanks_and_other_scripts_in_names_do_not_cost_the_summaries(
    tmp_path: Path, detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["my scene.png", "\u6e2f\u53e3 1.v2.png", "dir 1/x.png", "dir 2/x.png"]
    for seed, name in enumerate(names):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", noise_image(64, 64, seed=seed))[1].tobytes())
    paths = [tmp_path / "in" / name for name in names]
    out = tmp_path / "out"
    outcomes = run_files(detector, paths, _file_run(out))
    assert [o.status for o in outcomes] == ["done"] * 4
    assert caplog.text.count("image names hold white space") == 1
    assert "'my scene' as my%20scene" in caplog.text
    ids = {i for rows in read_task1(out / "Task1").values() for i in rows.image_ids}
    assert ids == {"my scene", "\u6e2f\u53e3 1.v2", "dir 1_x_png", "dir 2_x_png"}
    assert len(json.loads((out / "coco.json").read_text())["images"]) == 4
    assert len(list((out / "pictures").iterdir())) == 4


def test_longitude_and_latitude_never_become_pixels(
    tmp_path: Path,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("rasterio", reason="needs tcm_d2[geo]")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("placed.png", "nowhere.png"):
        cv2.imwrite(str(folder / name), noise_image(64, 64))
    (folder / "placed.pgw").write_text("0.5\n0\n0\n-0.5\n400000.25\n5599999.75\n")
    out = tmp_path / "out"

    def run(*options: str) -> int:
        given = ["--weights", run_dir, "--input", folder, "--output", out, "--device", "cpu"]
        arguments = [*given, "--score-threshold", LOW, *options]
        return int(predict.run(parse_arguments(list(map(str, arguments)))))

    assert run() == 0
    assert (out / "geojson" / "nowhere.geojson").is_file()
    for _ in range(2):  # also where the results are those of a run before
        assert run("--wgs84", "--crs", "EPSG:32633") == 1
        printed = capsys.readouterr()
        assert "nowhere.png: no GeoJSON is written: crs: nowhere has no coord" in printed.err
        assert "placed.png: no" not in printed.err
        # That of the run before held pixels.
        assert not (out / "geojson" / "nowhere.geojson").exists()
        assert (out / "labelTxt" / "nowhere.txt").is_file()
    tree = json.loads((out / "geojson" / "placed.geojson").read_text())
    points = np.array([f["geometry"]["coordinates"][0] for f in tree["features"]]).reshape(-1, 2)
    assert "crs" not in tree and (abs(points - [13.6, 50.5]) < 0.3).all()


def test_virtual_rasters_are_not_taken_out_of_a_folder(
    pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (pictures / "all.vrt").write_text("<VRTDataset/>")
    assert "all.vrt" not in [path.name for path in expand_inputs([pictures])]
    assert "virtual rasters" in caplog.text and "all.vrt" in caplog.text
    for given in (pictures / "all.vrt", f"{pictures}/*.vrt"):
        assert [path.name for path in expand_inputs([given])] == ["all.vrt"]


def test_second_run_does_only_what_is_new(
    pictures: Path, tmp_path: Path, detector: Detector
) -> None:
    out, paths = tmp_path / "out", expand_inputs([pictures / "a.png", pictures / "b.tif"])
    run_files(detector, paths, _file_run(out))
    again = run_files(detector, paths, _file_run(out))
    assert [o.status for o in again] == ["done before"] * 2
    cv2.imwrite(str(pictures / "a.png"), noise_image(90, 90))
    os.utime(pictures / "a.png", ns=(1, 1))
    again = run_files(detector, paths, _file_run(out))
    assert [o.status for o in again] == ["done", "done before"]
    other = run_files(detector, paths, _file_run(out, picture_format=None))
    assert [o.status for o in other] == ["done"] * 2


def test_a_second_run_into_the_folder_adds_to_the_summaries(
    detector: Detector, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pictures / "a.png", pictures / "sub" / "a.png"
    out = tmp_path / "out"
    others = [path for path in expand_inputs([pictures]) if path.stem != first.stem]
    run_files(detector, [first], _file_run(out))
    run_files(detector, others[:1], _file_run(out))
    files = {image["file_name"] for image in json.loads((out / "coco.json").read_text())["images"]}
    assert files == {str(first), str(others[0])} and not caplog.text
    # Another picture of that name, and then another threshold: said, and kept apart.
    second.parent.mkdir()
    second.write_bytes(first.read_bytes())
    run_files(detector, [second], _file_run(out))
    assert f"{second}: replaces the results 'a', which are of {first}" in caplog.text
    config = replace(detector.config, score_threshold=0.9)
    stricter = copy.copy(detector)
    stricter.config = config
    run_files(stricter, others[:1], _file_run(out))
    files = {image["file_name"] for image in json.loads((out / "coco.json").read_text())["images"]}
    assert files == {str(others[0])}
    assert "other settings, not in Task1 and coco.json: a" in caplog.text


def test_command_line(
    pictures: Path,
    tmp_path: Path,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    options = ["--score-threshold", LOW, "--device", "cpu", "--picture-format", "jpg"]
    arguments = ["--weights", run_dir, "--images", pictures, "--output", out, *options]
    assert predict.run(parse_arguments(list(map(str, arguments)))) == 1
    printed = capsys.readouterr()
    assert "3 files, 2 classes, on cpu; windows of 64 px, 16 px overlap" in printed.out
    assert f"left out: {pictures / 'broken.jpg'}: " in printed.err
    assert {p.name for p in (out / "pictures").iterdir()} == {"a.jpg", "b.jpg"}


def test_without_weights_the_bundled_detector_is_taken(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = Path(__file__).resolve().parents[2] / "docs/example.jpg"
    arguments = ["--images", str(example), "--output", str(tmp_path), "--device", "cpu"]
    assert run_command("predict", arguments) == 0
    assert "no --weights: taking tcm_atss_embedded" in capsys.readouterr().out
    rows = json.loads((tmp_path / "geojson/example.geojson").read_text())["features"]
    assert len(rows) > 5


def test_killed_run_goes_on(tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL in the middle of a scene: the next run starts there and finds the same."""
    scene = tmp_path / "scene.png"
    cv2.imwrite(str(scene), noise_image(600, 600))

    def arguments(out: Path) -> list[str]:
        command = ["--weights", run_dir, "--images", scene, "--output", out, "--device", "cpu"]
        command += ["--score-threshold", LOW, "--picture-format", "none", "--quiet"]
        return list(map(str, command))

    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(script=str(SCRIPT)))
    out = tmp_path / "killed"
    command = [sys.executable, str(driver), *arguments(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("batch 6"):
                break
        process.send_signal(signal.SIGKILL)
    assert list(out.glob("partial/*.npz")) and not list(out.glob("json/*"))

    batches: list[int] = []
    detect_batch = large_image._detect_batch

    def counting(*given: Any, **options: Any) -> Any:
        batches[-1] += 1
        return detect_batch(*given, **options)

    monkeypatch.setattr(large_image, "_detect_batch", counting)
    results = []
    for folder in (out, tmp_path / "whole"):
        batches.append(0)
        assert run_command("predict", arguments(folder)) == 0
        results.append(json.loads((folder / "json" / "scene.json").read_text())["detections"])
    # 13 x 13 windows, 4 at a time; the first 5 batches were kept.
    assert batches == [43 - 5, 43]
    assert results[0] == results[1] and len(results[0]) > 3
    assert not list(out.rglob(".*")) and not list(out.glob("partial/*"))


def test_interruption_writes_summaries_of_what_is_done(
    pictures: Path, tmp_path: Path, detector: Detector
) -> None:
    out, paths = tmp_path / "out", expand_inputs([pictures / "a.png", pictures / "b.tif"])

    def stop(outcome: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_files(detector, paths, _file_run(out), report=stop)
    assert len(json.loads((out / "coco.json").read_text())["images"]) == 1
    assert any(np.isfinite(r.scores).any() for r in read_task1(out / "Task1").values())


def test_commands_of_the_page_can_be_read() -> None:
    text = (REPO_DIR / "docs" / "inference.md").read_text(encoding="utf-8")
    commands = [line for line in text.splitlines() if line.startswith("python tools/demo.py")]
    assert len(commands) >= 2
    for command in commands:
        args = parse_arguments(shlex.split(command)[2:])
        assert args.weights and args.output
