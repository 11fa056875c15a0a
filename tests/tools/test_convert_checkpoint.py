"""The command line of tools/convert_checkpoint.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tcm_d2.checkpoint.load import match_weights
from tcm_d2.cli.main import run_command
from tcm_d2.weight_files.reading import read_weight_file
from tests.checkpoint.detectors import small_detector
from tests.conftest import REPO_DIR
from tests.weight_files.foreign import RunsCommand, save_as_mmengine

SCRIPT = REPO_DIR / "tools" / "convert_checkpoint.py"
# The small detector of the tests, as overrides of the published configuration.
SMALL = (
    "MODEL.DEVICE cpu MODEL.CLIP.NAME custom MODEL.CLIP.EMBED_DIM 48 MODEL.CLIP.VISION_WIDTH 8 "
    "MODEL.CLIP.VISION_LAYERS [1,1,1,1] MODEL.CLIP.TEXT_WIDTH 64 MODEL.CLIP.TEXT_HEADS 1 "
    "MODEL.CLIP.TEXT_LAYERS 2 MODEL.CLIP.POSITION_IMAGE_SIZE_PX 256 MODEL.TCM.DECODER_WIDTH 16 "
    "MODEL.TCM.DECODER_LAYERS 1 MODEL.ROTATED_FPN.OUT_CHANNELS 32 MODEL.ROTATED_HEAD.CHANNELS 32 "
    "MODEL.ROTATED_HEAD.NUM_CONVS 2"
).split()
CONFIG = ["--config-file", str(REPO_DIR / "configs" / "tcm_fcos.yaml")]


def mmrotate_state() -> dict[str, Tensor]:
    """Return a few tensors of a TCM detector by mmrotate's names, fitting the small detector."""
    return {
        "contexts": torch.randn(1, 69, 64),
        "vis_gamma": torch.tensor(0.5),
        "backbone.visual.conv1.weight": torch.randn(4, 3, 3, 3).half(),
        "backbone.visual.attnpool.positional_embedding": torch.randn(50, 256),
        "neck.fpn_convs.3.conv.bias": torch.randn(64)[::2],
        "bbox_head.conv_cls.bias": torch.randn(15),
        "bbox_head.conv_reg.weight": torch.randn(4, 32, 3, 3),
        "bbox_head.not_known.weight": torch.randn(2),
        "prompt_generator.prompt_proj.0.weight": torch.randn(4),
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_as_mmengine(mmrotate_state(), tmp_path / "epoch_12.pth")
    return tmp_path / "epoch_12.pth"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_names_are_converted(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
) -> None:
    output = tmp_path / "out" / f"ours{suffix}"
    assert run_command("convert", ["--weights", str(checkpoint), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    for text in (
        "a TCM detector in mmrotate's names",
        "head: rotated FCOS, 15 class outputs",
        "objects skipped, not run: datetime.datetime",
        "tcm.context (1, 69, 64) -> (69, 64), without the leading axis",
        "bbox_head.not_known.weight",
        "prompt_generator.prompt_proj.0.weight",
        f"7 tensors written to {output}",
    ):
        assert text in printed, text
    written = read_weight_file(output).tensors
    source = read_weight_file(checkpoint).tensors
    assert written["backbone.conv1.weight"].dtype == torch.float32
    expected = {
        "tcm.context": source["contexts"][0],
        "tcm.visual_scale": source["vis_gamma"],
        "backbone.conv1.weight": source["backbone.visual.conv1.weight"].float(),
        "neck.extra_convs.0.bias": source["neck.fpn_convs.3.conv.bias"],
        "head.class_predictor.bias": source["bbox_head.conv_cls.bias"],
        "head.distance_predictor.weight": source["bbox_head.conv_reg.weight"],
        "attention_pool.positional_embedding": source[
            "backbone.visual.attnpool.positional_embedding"
        ],
    }
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    assert sorted(p.name for p in output.parent.iterdir()) == [output.name]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_known_of_the_source_is_written(
    checkpoint: Path, tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"ours{suffix}"
    assert run_command("convert", ["--weights", str(checkpoint), "--output", str(output)]) == 0
    if suffix == ".pth":
        metadata = torch.load(output, weights_only=True)["metadata"]
    else:
        with safe_open(output, "pt") as opened:
            metadata = opened.metadata()
    assert metadata["converted_from"] == "mmrotate TCM"
    assert metadata["source_file"] == "epoch_12.pth"
    assert metadata["writer"].startswith("tcm_d2 ")


def test_with_a_configuration_tensors_get_its_shapes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "ours.pth"
    arguments = ["--weights", str(checkpoint), "--output", str(output), *CONFIG, *SMALL]
    assert run_command("convert", arguments) == 0
    printed = capsys.readouterr().out
    assert "attention_pool.positional_embedding (50, 256) -> (65, 256), grid resized" in printed
    tensors = read_weight_file(output).tensors
    _, report = match_weights(small_detector().state_dict(), tensors, source="ours.pth")
    assert report.reshaped == [] and report.mismatched == [] and report.unexpected == []
    assert report.loaded == sorted(tensors) and len(tensors) == 7


def test_clip_is_converted(tmp_path: Path) -> None:
    clip = {"visual.layer1.0.conv1.weight": torch.ones(8, 8, 1, 1), "logit_scale": torch.ones(())}
    save_file(clip, tmp_path / "clip.safetensors")
    output = tmp_path / "ours.safetensors"
    assert (
        run_command(
            "convert", ["--weights", str(tmp_path / "clip.safetensors"), "--output", str(output)]
        )
        == 0
    )
    assert set(load_file(output)) == {"backbone.layer1.0.conv1.weight"}


def test_inspect_writes_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert run_command("convert", ["--weights", str(checkpoint), "--inspect"]) == 0
    printed = capsys.readouterr().out
    assert "9 tensors" in printed and "float16, float32" in printed and "loaded" not in printed
    assert run_command("convert", ["--weights", str(checkpoint), "--inspect", *CONFIG, *SMALL]) == 0
    assert "loaded" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


def test_inspect_describes_what_cannot_be_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r50.pth"
    torch.save({"layer1.0.conv1.weight": torch.ones(1), "fc.weight": torch.ones(1)}, path)
    assert run_command("convert", ["--weights", str(path), "--inspect"]) == 0
    assert "an image ResNet, not CLIP" in capsys.readouterr().out


def save_nothing_of_use(path: Path) -> None:
    torch.save({"blocks.0.attn.qkv.weight": torch.ones(1)}, path)


@pytest.mark.parametrize(
    ("make", "more", "message"),
    [
        (lambda path: None, [], "no such file"),
        (lambda path: path.mkdir(), [], "expected a file, got a folder"),
        (lambda path: path.write_bytes(b""), [], "the file is empty"),
        (lambda path: path.write_text("<html>"), [], "not a weight file"),
        (save_nothing_of_use, [], "nothing to convert: it looks like a vision transformer"),
        (save_nothing_of_use, [*CONFIG, *SMALL], "fits nothing in this model"),
        (save_nothing_of_use, ["--config-file", "nowhere.yaml"], "nowhere.yaml"),
        (save_nothing_of_use, [*CONFIG, "MODEL.CLIP.NAMES", "x"], "MODEL.CLIP.NAMES"),
    ],
)
def test_bad_input_is_answered_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: object,
    more: list[str],
    message: str,
) -> None:
    make(tmp_path / "w.pth")
    output = tmp_path / "ours.pth"
    assert (
        run_command(
            "convert", ["--weights", str(tmp_path / "w.pth"), "--output", str(output), *more]
        )
        == 1
    )
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not output.exists()


def test_attack_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker = tmp_path / "executed"
    torch.save({"state_dict": mmrotate_state(), "meta": RunsCommand(marker)}, tmp_path / "w.pth")
    output = tmp_path / "ours.pth"
    assert (
        run_command("convert", ["--weights", str(tmp_path / "w.pth"), "--output", str(output)]) == 1
    )
    assert "refused, because reading it would run code" in capsys.readouterr().err
    assert not marker.exists() and not output.exists()


def test_outputs_that_are_refused_before_reading(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.pth"
    old.write_bytes(b"old")
    for output, message in (
        (tmp_path / "ours.onnx", "expected .pth or .safetensors"),
        (checkpoint, "is the input"),
        (old, "exists; --overwrite replaces it"),
    ):
        assert run_command("convert", ["--weights", str(checkpoint), "--output", str(output)]) == 1
        assert message in capsys.readouterr().err
    assert old.read_bytes() == b"old"
    assert (
        run_command("convert", ["--weights", str(checkpoint), "--output", str(old), "--overwrite"])
        == 0
    )
    assert "tcm.context" in read_weight_file(old).tensors


@pytest.mark.parametrize(
    "more", [[], ["--inspect", "--output", "o.pth"], ["--inspect", "A.B", "1"]]
)
def test_contradicting_arguments(capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_command("convert", ["--weights", "w.pth", *more])
    assert stopped.value.code == 2
    assert "expected either" in (error := capsys.readouterr().err) or "overrides need" in error


def test_runs_as_a_script(checkpoint: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--weights", str(checkpoint), "--output", "ours.pth"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPO_DIR)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ours.pth").is_file() and "7 tensors written" in done.stdout
