"""The golden heads and detectors again, with the kernels for 3x3 convolutions on all maps.

Elsewhere their maps are too small and have too few channels for these.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tcm_d2.checkpoint.head_names import HeadKind
from tcm_d2.cpu import fast_conv, inference_layers, packed
from tcm_d2.cpu.packed import has_fast_kernels
from tests.conftest import DATA_DIR, SHARED_DIR
from tests.parity import (
    test_golden_atss_head,
    test_golden_fcos_detector,
    test_golden_fcos_head,
    test_golden_retinanet_head,
)
from tests.parity.anchor_detectors import (
    check_features,
    check_losses_and_gradients,
    load_golden,
    make_detector,
)
from tests.parity.anchor_heads import make_head
from tests.parity.golden import Golden

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
    return test_golden_fcos_head.make_head(golden) if kind == "fcos" else make_head(kind, golden)


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
