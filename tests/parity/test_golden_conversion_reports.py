"""The golden models as files: converted on loading, they give the golden predictions.

The state dicts are written as mmrotate's runner writes checkpoints, then read as MODEL.WEIGHTS is.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tcm_d2.checkpoint.load import SafeCheckpointer, load_weights
from tcm_d2.checkpoint.load_report import LoadReport
from tcm_d2.cli.main import run_command
from tests.parity.anchor_detectors import check_detections, load_golden, make_detector
from tests.parity.detector import make_batch
from tests.parity.golden import relative_error
from tests.parity.heads import HeadKind
from tests.weight_files.foreign import save_as_mmengine

KINDS: list[HeadKind] = ["fcos", "atss", "retinanet"]
# Tensors of the models: all that the files hold but the prompt generator's eight.
NUM_TENSORS = {"fcos": 357, "atss": 354, "retinanet": 339}
# Stored once, in FCOS's file.
SHARED_PARTS = ("backbone.", "text_encoder.", "prompt_generator.")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> HeadKind:
    return request.param


@pytest.fixture(scope="module")
def state_dict(golden_dir: Path, kind: HeadKind) -> dict[str, Tensor]:
    """The complete state dict by the reference's names."""
    shared = load_golden(golden_dir, "fcos").below("sd")
    state = {name: t for name, t in shared.items() if name.startswith(SHARED_PARTS)}
    return {**state, **load_golden(golden_dir, kind).below("sd")}


@pytest.fixture(scope="module")
def checkpoint(
    state_dict: dict[str, Tensor], kind: HeadKind, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("golden") / f"{kind}_epoch_12.pth"
    save_as_mmengine(state_dict, path)
    return path


@pytest.fixture
def empty_model(golden_dir: Path, kind: HeadKind) -> nn.Module:
    """The model of the golden predictions, every value to be loaded not a number."""
    model = make_detector(golden_dir, kind).eval()
    for tensor in model.state_dict().values():
        tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
    return model


def check_report(report: LoadReport, kind: HeadKind) -> None:
    assert len(report.loaded) == NUM_TENSORS[kind]
    assert report.is_complete and report.notes == []
    assert len(report.dead) == 8
    assert all(name.startswith("prompt_generator.") for name in report.dead)
    assert [str(r) for r in report.reshaped] == [
        "tcm.context (1, 69, 64) -> (69, 64), without the leading axis"
    ]


def test_report(state_dict: dict[str, Tensor], empty_model: nn.Module, kind: HeadKind) -> None:
    report = load_weights(empty_model, state_dict, source="golden")
    check_report(report, kind)
    assert report.converted_from == "mmrotate TCM"


def test_loaded_file_gives_the_golden_predictions(
    golden_dir: Path, kind: HeadKind, checkpoint: Path, empty_model: nn.Module
) -> None:
    """Angle sign and unit are the coders' matter, so nothing but names changes on the way."""
    SafeCheckpointer(empty_model).load(
        str(checkpoint), checkpointables=[], require_all_parameters=True
    )
    golden = load_golden(golden_dir, kind)
    for image in range(2):
        check_detections(empty_model, golden, image)
    with torch.no_grad():
        images = empty_model.preprocess_images(make_batch(golden, with_targets=False)).tensor
        pyramid, score_map = empty_model.features(images)
        output = empty_model.head(pyramid)
    regression = output.distances[1] * 16 if kind == "fcos" else output.deltas[1]
    errors = {
        "score map": relative_error(score_map, golden["eval_score_map"]),
        "p7": relative_error(pyramid[4], golden["eval_fpn_lvl4"]),
        "class logits": relative_error(output.class_logits[1], golden["eval_cls_lvl1"]),
        "regression": relative_error(regression, golden["eval_reg_lvl1"]),
    }
    assert all(error < 1e-4 for error in errors.values()), errors


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_converted_file_holds_the_same_values(
    kind: HeadKind,
    checkpoint: Path,
    empty_model: nn.Module,
    golden_dir: Path,
    tmp_path: Path,
    suffix: str,
) -> None:
    output = tmp_path / f"ours{suffix}"
    assert run_command("convert", ["--input", str(checkpoint), "--output", str(output)]) == 0
    SafeCheckpointer(empty_model).load(str(output), checkpointables=[], require_all_parameters=True)
    expected = make_detector(golden_dir, kind).state_dict()
    for name, tensor in empty_model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
