"""The command tcm-d2: every command's help without torch, its choices, and what it refuses."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from tcm_d2 import __version__
from tcm_d2.cli.main import COMMANDS, main, run_command
from tcm_d2.data import conversion
from tcm_d2.data.dota.labels import ON_ERROR_CHOICES
from tcm_d2.data.dota.patches import SINGLE_SCALE
from tcm_d2.data.formats import contract, reading
from tcm_d2.evaluation import merge
from tcm_d2.evaluation.analysis.result import AnalysisOptions
from tcm_d2.evaluation.files.rows import TASKS
from tcm_d2.evaluation.scoring import average_precision, protocols
from tcm_d2.inference import batch_run, results, seams
from tcm_d2.report.gallery import IMAGE_FORMATS
from tests.conftest import REPO_DIR

# Shows the help of each command where nothing but the standard library can be imported.
HELP_OF_ALL = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {"tcm_d2", *sys.stdlib_module_names}:
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Refuse())
from tcm_d2.cli.main import COMMANDS, main
for name in COMMANDS:
    print("@", name)
    try:
        main([name, "--help"])
    except SystemExit as end:
        assert not end.code
"""
# Choices and defaults that options repeat, since what they come from loads torch or numpy.
REPEATED = {
    "evaluate": {
        "task": TASKS,
        "protocol": protocols.PROTOCOLS,
        "metric": average_precision.METRICS,
        "difficult": average_precision.DIFFICULT_RULES,
        "tie_order": average_precision.TIE_ORDERS,
        "on_bad_label": ON_ERROR_CHOICES,
    },
    "merge": {"task": TASKS, "patch_names": merge.NAME_STYLES},
    "lint": {"task": TASKS},
    "report": {"metric": average_precision.METRICS, "image_format": IMAGE_FORMATS},
    "predict": {
        "seam_rule": seams.SEAM_RULES,
        "picture_format": (*batch_run.PICTURE_FORMATS, "none"),
    },
    "split": {"on_error": ON_ERROR_CHOICES},
    "draw_data": {"on_error": ON_ERROR_CHOICES},
    "convert_annotations": {
        "on_error": get_args(reading.OnError),
        "polygons": get_args(reading.Polygons),
        "angle_unit": get_args(reading.AngleUnit),
        "bbox5": get_args(reading.Bbox5),
    },
}


def parser_of(module: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = importlib.import_module(
        f"tcm_d2.cli.options.{module}"
    ).make_parser()
    return parser


def test_help_needs_the_standard_library_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL],
        cwd=REPO_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for part in done.stdout.split("@ ")[1:]:
        name = part.split("\n")[0]
        assert f"usage: tcm-d2 {name} [-h]" in part and "%(" not in part


@pytest.mark.parametrize("module", REPEATED)
def test_choices_are_those_of_the_library(module: str) -> None:
    choices = {action.dest: action.choices for action in parser_of(module)._actions}
    assert {name: tuple(choices[name] or ()) for name in REPEATED[module]} == {
        name: tuple(known) for name, known in REPEATED[module].items()
    }


def test_defaults_are_those_of_the_library() -> None:
    convert = parser_of("convert_annotations")
    assert convert.get_default("format") == contract.AUTO
    assert convert.get_default("to") == conversion.TARGET_FORMAT
    side = parser_of("predict").get_default("picture_side")
    assert side == results.MAX_PICTURE_SIDE_PX
    score = parser_of("evaluate").get_default("confusion_score")
    assert score == AnalysisOptions.confusion_score
    text = parser_of("split").format_help()
    assert f"patch side ({SINGLE_SCALE.patch_size_px})" in text
    assert f"overlap of patches ({SINGLE_SCALE.gap_px})" in text


def test_overview_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^  ([\w-]+)", shown, re.MULTILINE) == list(COMMANDS)
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"tcm_d2 {__version__}\n"
    assert main([]) == 2


def test_unknown_command_is_met_with_near_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predcit"]) == 2
    assert "no command 'predcit'; near matches: predict" in capsys.readouterr().err


def test_without_detectron2_one_sentence_says_how_to_get_it(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['detectron2'] = None\n"
        "from tcm_d2.cli.main import main\n"
        "sys.exit(main(['predict', '--images', 'a.png', '--output', 'out']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPO_DIR)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "tcm-d2 install-detectron2" in done.stderr


def test_every_tool_of_a_checkout_has_its_command() -> None:
    called = set()
    for path in sorted((REPO_DIR / "tools").glob("*.py")):
        called.update(re.findall(r'run_command\("([\w-]+)"', path.read_text()))
    assert called == COMMANDS.keys() - {"eval", "serve", "zoo", "completion"}


def test_the_page_of_the_commands_lists_them_with_their_tools() -> None:
    text = (REPO_DIR / "docs" / "command.md").read_text(encoding="utf-8")
    table = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    listed = {name for cells in table for name in re.findall(r"`([\w-]+)`", cells[0])}
    assert listed == COMMANDS.keys()
    for names, tool in table:
        for file in re.findall(r"`(tools/\w+\.py)`", tool):
            code = (REPO_DIR / file).read_text(encoding="utf-8")
            assert any(f'"{name}"' in code for name in re.findall(r"`([\w-]+)`", names)), file


def test_help_shows_how_it_was_called(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command("split", ["--help"], prog="tools/split_dota.py")
    shown = capsys.readouterr().out
    assert "usage: tools/split_dota.py" in shown and "tools/split_dota.py --multi-scale" in shown


def test_installer_runs_where_nothing_is_installed(tmp_path: Path) -> None:
    """Makefile and installation notes call it before tcm_d2 and what it needs are there."""
    command = [str(REPO_DIR / "tools" / "install_detectron2.py"), "--list-edits"]
    done = subprocess.run(
        [sys.executable, "-I", "-S", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "detectron2/" in done.stdout


def test_bash_completes_commands_options_and_choices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "tcm-d2.bash"
    script.write_text(capsys.readouterr().out)

    def complete(*words: str) -> list[str]:
        code = (
            f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
            'handler=$(complete -p tcm-d2 | sed "s/.*-F \\([^ ]*\\).*/\\1/"); $handler; '
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert complete("tcm-d2", "pr") == ["predict"]
    assert complete("tcm-d2", "split", "--mult") == ["--multi-scale"]
    assert complete("tcm-d2", "evaluate", "--metric", "") == ["11point", "area"]
    (tmp_path / "weights.pth").touch()
    assert complete("tcm-d2", "predict", "--weights", "w") == ["weights.pth"]


@pytest.fixture
def other_writer(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder that another process writes into, and the process's id."""
    folder = tmp_path / "busy"
    folder.mkdir()
    code = "import sys, time; from tcm_d2.files import locked_folder\n"
    code += "with locked_folder(sys.argv[1], what='x'):\n    print('locked', flush=True)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code + "    time.sleep(600)", str(folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPO_DIR)},
    )
    assert process.stdout is not None and process.stdout.readline() == b"locked\n"
    yield folder, process.pid
    process.kill()
    process.wait()


def test_two_commands_do_not_write_into_one_folder(
    other_writer: tuple[Path, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, process_id = other_writer
    calls = {
        "predict": ["--images", "x"],
        "split": ["--images", "x", "--no-labels"],
        "validate": ["--images", "x", "--labels", "x"],
        "convert-annotations": ["--annotations", "x"],
        "evaluate": ["--detections", "x", "--labels", "x"],
        "merge": ["--detections", "x"],
        "draw": ["--images", "x", "--detections", "x"],
        "draw-data": ["--images", "x"],
        "make-synthetic": [],
    }
    assert set(calls) == {name for name, command in COMMANDS.items() if command.fills_folder}
    for name, arguments in calls.items():
        assert run_command(name, [*arguments, "--output", str(folder)]) == 1, name
        message = f"error: --output '{folder}': in use by process {process_id} on "
        assert message in capsys.readouterr().err


def test_a_command_that_fails_leaves_no_empty_folder(tmp_path: Path) -> None:
    missing, output = tmp_path / "missing", tmp_path / "a" / "b"
    assert (
        run_command("split", ["--images", str(missing), "--no-labels", "--output", str(output)])
        == 1
    )
    assert list(tmp_path.iterdir()) == []
