"""The kernels of each instruction set, in processes of their own, against float64."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tcm_d2.ops import extension_status

CODE = """
import ctypes, sys
import torch
import torch.nn.functional as F
from torch.nn.grad import conv2d_weight
from tcm_d2.ops import extension_status
from tcm_d2.cpu import packed as p

library = ctypes.CDLL(extension_status().path)
library.tcm_d2_conv_kernels.restype = ctypes.c_char_p
print(library.tcm_d2_conv_kernels().decode())
torch.manual_seed(0)


def check(actual, expected, name):
    error = (actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1)
    limit = 5e-6 if actual.dtype == torch.float32 else 5e-3
    assert error < limit, (name, error)


for dtype in (torch.float32, torch.bfloat16):
    for rows, depth, columns in ((1, 1, 1), (13, 7, 33), (29, 257, 70), (120, 300, 64)):
        x = torch.randn(rows, depth).to(dtype)
        weight, bias = torch.randn(columns, depth), torch.randn(columns)
        residual = torch.randn(rows, columns).to(dtype)
        expected = F.linear(x.double(), weight.double(), bias.double()) + residual.double()
        packed = p.pack_linear(weight)
        actual = p.linear_packed(x, packed, bias=bias, residual=residual, relu=True)
        check(actual, expected.relu(), "linear")
    for n, c, k, h, w in ((2, 16, 15, 5, 7), (1, 48, 40, 9, 17), (1, 272, 64, 8, 12)):
        x, weight, bias = torch.randn(n, c, h, w).to(dtype), torch.randn(k, c, 3, 3), torch.randn(k)
        expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
        actual = p.conv3x3_packed(x, p.pack_conv3x3(weight), bias=bias, relu=True)
        check(actual, expected.relu(), "conv")
for n, c, k, h, w in ((2, 16, 48, 5, 7), (1, 272, 64, 40, 70)):
    x, grad = torch.randn(n, c, h, w), torch.randn(n, k, h, w)
    expected = conv2d_weight(x.double(), (k, c, 3, 3), grad.double(), padding=1)
    check(p.conv3x3_weight_grad(x, grad), expected, "gradient")
x = torch.randn(2, 20, 9, 13)
assert torch.equal(p.change_layout(x, torch.channels_last), x)
nan = torch.full((1, 16, 4, 4), float("nan"))
assert p.conv3x3_packed(nan, p.pack_conv3x3(torch.randn(16, 16, 3, 3)), bias=None).isnan().all()
nan_rows = p.linear_packed(nan[0, :, :, 0], p.pack_linear(torch.randn(20, 4)), bias=None, relu=True)
assert nan_rows.isnan().all()
"""


def run(kernels: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE],
        env={**os.environ, "TCM_D2_CPU_KERNELS": kernels},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.skipif(not extension_status().loaded, reason="the extension is not built")
@pytest.mark.parametrize("kernels", ["plain", "avx2", "avx512"])
def test_kernels_of_every_instruction_set(kernels: str) -> None:
    tested = run(kernels)
    names = {"plain": "plain", "avx2": "AVX2", "avx512": "AVX-512"}
    if tested != names[kernels]:
        pytest.skip(f"this processor has no {names[kernels]}; {tested} was used instead")
