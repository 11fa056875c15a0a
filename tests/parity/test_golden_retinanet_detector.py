"""The whole small TCM-RetinaNet against the reference: features, losses, predictions."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from tests.parity.anchor_detectors import (
    check_detections,
    check_features,
    check_float64_gradients,
    check_losses_and_gradients,
    load_golden,
    make_detector,
)
from tests.parity.golden import Golden


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Golden:
    return load_golden(golden_dir, "retinanet")


@pytest.fixture(scope="module")
def model(golden_dir: Path) -> nn.Module:
    return make_detector(golden_dir, "retinanet").eval()


def test_features(golden: Golden, model: nn.Module) -> None:
    check_features(model, golden)


@pytest.mark.parametrize("frozen_bn", [True, False], ids=["frozen_bn", "train_bn"])
def test_losses_and_gradients(golden_dir: Path, golden: Golden, frozen_bn: bool) -> None:
    check_losses_and_gradients(make_detector(golden_dir, "retinanet"), golden, frozen_bn=frozen_bn)


def test_gradients_equal_those_in_float64(golden_dir: Path, golden: Golden) -> None:
    check_float64_gradients(lambda: make_detector(golden_dir, "retinanet"), golden)


@pytest.mark.parametrize("image", [0, 1])
def test_predictions(golden: Golden, model: nn.Module, image: int) -> None:
    check_detections(model, golden, image)
