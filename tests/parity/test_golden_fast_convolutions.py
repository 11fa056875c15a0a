"""The golden heads and detectors again, made fast, with the 3x3 kernels on all maps.

By themselves their maps are too small and have too few channels for these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tcm_d2.cpu import accelerate, fast_conv, inference_layers, packed
from tcm_d2.cpu.packed import has_fast_kernels
from tests.conftest import DATA_DIR, SHARED_DIR
from tests.parity import (
    anchor_detectors,
    test_golden_atss_head,
    test_golden_fcos_detector,
    test_golden_fcos_head,
    test_golden_retinanet_head,
)
from tests.parity.anchor_detectors import (
    check_detections,
    check_features,
    check_losses_and_gradients,
    load_golden,
    make_detector,
)
from tests.parity.golden import Golden
from tests.parity.heads import HeadKind

pytestmark = pytest.mark.skipif(
    not has_fast_kernels(torch.float32), reason="nothing is packed on this processor"
)

# The tests of each head.
HEADS: dict[HeadKind, Any] = {
    "fcos": test_golden_fcos_head,
    "atss": test_golden_atss_head,
    "retinanet": test_golden_retinanet_head,
}
ANCHOR_KINDS: tuple[HeadKind, ...] = ("atss", "retinanet")


def made_fast(make: Callable[..., nn.Module], *args: Any) -> nn.Module:
    module = make(*args)
    accelerate(module)
    return module


@pytest.fixture(autouse=True)
def _kernels_serve_all_maps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    calls: list[str] = []

    def run(operator: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(operator.__name__)
        return operator(*args, **kwargs)

    monkeypatch.setattr(packed, "MIN_CONV3X3_CELLS", 1)
    monkeypatch.setattr(packed, "MIN_CONV3X3_CHANNELS", 16)
    for module in (fast_conv, inference_layers):
        monkeypatch.setattr(module, "conv3x3_packed", partial(run, packed.conv3x3_packed))
    for module in HEADS.values():
        monkeypatch.setattr(module, "make_head", partial(made_fast, module.make_head))
    for module in (test_golden_fcos_detector, anchor_detectors):
        monkeypatch.setattr(module, "make_model", partial(made_fast, module.make_model))
    yield
    assert calls


@pytest.fixture(scope="module", params=list(HEADS))
def kind(request: pytest.FixtureRequest) -> HeadKind:
    kind: HeadKind = request.param
    return kind


@pytest.fixture(scope="module")
def head_golden(kind: HeadKind) -> Golden:
    """The full arrays, or where they are absent the small copy."""
    full = SHARED_DIR / "golden" / f"f_head_{kind}.npz"
    return Golden(full if full.is_file() else DATA_DIR / "golden" / full.name)


def golden_head(kind: HeadKind, golden: Golden) -> nn.Module:
    head: nn.Module = HEADS[kind].make_head(*(() if kind == "fcos" else (kind,)), golden)
    return head


@pytest.mark.parametrize("infers", [False, True], ids=["training", "inference"])
def test_raw_outputs_of_heads(kind: HeadKind, head_golden: Golden, infers: bool) -> None:
    head = golden_head(kind, head_golden).train(not infers)
    with torch.set_grad_enabled(not infers):
        HEADS[kind].test_raw_outputs(head_golden, head)


def test_losses_and_gradients_of_heads(kind: HeadKind, head_golden: Golden) -> None:
    HEADS[kind].test_losses_and_gradients(head_golden)


def test_losses_of_heads_without_ground_truth(kind: HeadKind, head_golden: Golden) -> None:
    head = golden_head(kind, head_golden)
    HEADS[kind].test_losses_without_ground_truth(head_golden, head)


def test_gradients_of_heads_equal_those_in_float64(kind: HeadKind, head_golden: Golden) -> None:
    HEADS[kind].test_gradients_equal_those_in_float64(head_golden)


@pytest.fixture(scope="module")
def fcos_golden(golden_dir: Path) -> Golden:
    return Golden(golden_dir / "g_e2e_fcos.npz")


def test_features_of_fcos(fcos_golden: Golden) -> None:
    test_golden_fcos_detector.test_features(fcos_golden)


@pytest.mark.parametrize("frozen_bn", [True, False], ids=["frozen_bn", "train_bn"])
def test_losses_and_gradients_of_fcos(fcos_golden: Golden, frozen_bn: bool) -> None:
    test_golden_fcos_detector.test_losses_and_gradients(fcos_golden, frozen_bn)


def test_gradients_of_fcos_equal_those_in_float64(fcos_golden: Golden) -> None:
    test_golden_fcos_detector.test_gradients_equal_those_in_float64(fcos_golden)


@pytest.mark.parametrize("anchor_kind", ANCHOR_KINDS)
def test_features_of_anchor_detectors(golden_dir: Path, anchor_kind: HeadKind) -> None:
    model = make_detector(golden_dir, anchor_kind).eval()
    check_features(model, load_golden(golden_dir, anchor_kind))


@pytest.mark.parametrize("frozen_bn", [True, False], ids=["frozen_bn", "train_bn"])
@pytest.mark.parametrize("anchor_kind", ANCHOR_KINDS)
def test_losses_and_gradients_of_anchor_detectors(
    golden_dir: Path, anchor_kind: HeadKind, frozen_bn: bool
) -> None:
    golden = load_golden(golden_dir, anchor_kind)
    check_losses_and_gradients(make_detector(golden_dir, anchor_kind), golden, frozen_bn=frozen_bn)


@pytest.mark.parametrize("image", [0, 1])
def test_predictions_of_fcos(fcos_golden: Golden, image: int) -> None:
    test_golden_fcos_detector.test_predictions(fcos_golden, image)


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("anchor_kind", ANCHOR_KINDS)
def test_predictions_of_anchor_detectors(
    golden_dir: Path, anchor_kind: HeadKind, image: int
) -> None:
    model = make_detector(golden_dir, anchor_kind).eval()
    check_detections(model, load_golden(golden_dir, anchor_kind), image)
