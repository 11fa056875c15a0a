"""Registration of the annex's operators: opcheck, and life without the extension."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tcm_d2.cpu.operators import OPERATORS, has_kernels
from tcm_d2.cpu.packed import factor_dtype, pack_conv3x3, pack_linear
from tcm_d2.ops import extension_status
from tests.conftest import REPO_DIR


def operator_samples() -> dict[str, list[tuple[object, ...]]]:
    x, map_ = torch.randn(6, 7), torch.randn(2, 16, 5, 6)
    dots, bias, shortcut = (
        pack_linear(torch.randn(40, 7)).panels,
        torch.randn(40),
        torch.randn(6, 40),
    )
    kernel = pack_conv3x3(torch.randn(40, 16, 3, 3)).panels
    channels_last = map_.contiguous(memory_format=torch.channels_last)
    half, half_shortcut = x.bfloat16(), shortcut.bfloat16()
    linear: list[tuple[object, ...]] = [
        (x, dots, None, None, False, 40),
        (x, dots, bias, shortcut, True, 40),
        (x.t().contiguous().t(), dots, bias, None, True, 40),
        (x[:0], dots, bias, shortcut[:0], False, 40),
        (half, dots, None, half_shortcut, True, 40),
        (half, dots, bias, None, False, 40),
    ]
    if factor_dtype(torch.bfloat16) == torch.bfloat16:
        pairs = pack_linear(torch.randn(40, 7), dtype=torch.bfloat16).panels
        linear += [
            (half, pairs, None, None, False, 40),
            (half, pairs, bias, half_shortcut, True, 40),
        ]
    conv: list[tuple[object, ...]] = [
        (map_, kernel, None, False, 40),
        (channels_last, kernel, bias, True, 40),
        (map_[:1, :, :1, :1], kernel, bias, False, 40),
        (map_.bfloat16(), kernel, None, True, 40),
        (map_.bfloat16(), kernel, bias, False, 40),
        (map_[:0], kernel, bias, True, 40),
        (map_[:0].bfloat16(), kernel, None, False, 40),
    ]
    weight, grad = torch.randn(32, 16, 3, 3), torch.randn(2, 32, 5, 6)
    scale, shift = torch.randn(16), torch.randn(16)
    return {
        "linear_packed": linear,
        "conv3x3_packed": conv,
        "pack_conv3x3": [(weight, False), (weight, True)],
        "change_layout": [
            (torch.randn(2, 9, 4, 5), True),
            (torch.randn(2, 9, 4, 5).contiguous(memory_format=torch.channels_last), False),
            (torch.randn(0, 3, 4, 5), True),
        ],
        "conv3x3_weight_grad": [
            (map_, grad),
            (channels_last, grad.contiguous(memory_format=torch.channels_last)),
            (map_[:0], grad[:0]),
        ],
        "group_norm_relu": [
            (map_, 4, scale, shift, 1e-5, True),
            (channels_last, 16, scale, shift, 1e-5, False),
            (map_.bfloat16(), 1, scale, shift, 1e-5, True),
            (map_[:0], 4, scale, shift, 1e-5, True),
        ],
    }


def test_every_operator_has_a_sample() -> None:
    assert set(operator_samples()) == set(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str) -> None:
    operator = getattr(torch.ops.tcm_d2, name).default
    for sample in operator_samples()[name]:
        torch.library.opcheck(operator, sample)


@pytest.mark.parametrize("name", OPERATORS)
def test_results_are_no_views_that_autograd_forbids_to_change(name: str) -> None:
    if not has_kernels():
        pytest.skip("the compiled extension is not built")
    for sample in operator_samples()[name]:
        assert not getattr(torch.ops.tcm_d2, name)(*sample)._is_view()


def test_the_extension_has_all_kernels() -> None:
    assert has_kernels() == extension_status().loaded


_WITHOUT_EXTENSION = """
import sys, warnings
sys.modules["tcm_d2._C"] = None  # importing it fails
warnings.simplefilter("ignore")
import torch
from tcm_d2.cpu import operators, packed
assert not operators.has_kernels() and not packed.has_fast_kernels(torch.float32)
x, weight = torch.randn(6, 7), torch.randn(40, 7)
out = packed.linear_packed(x, packed.pack_linear(weight), bias=None)
torch.testing.assert_close(out, x @ weight.T)
"""


def test_references_run_without_the_extension() -> None:
    result = subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXTENSION],
        cwd=REPO_DIR,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
