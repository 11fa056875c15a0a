"""Group normalization with ReLU behind it: kernel and reference implementation against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tcm_d2.cpu import reference_packed
from tcm_d2.cpu.packed import group_norm_relu
from tests.cpu.test_packed import (
    DTYPES,
    INF,
    NAN,
    assert_close,
    assert_threads_do_not_matter,
    needs_kernels,
    rms,
)

EPS = 1e-5
# Blocks of the kernel are of 1024 cells.
SIZES_HW = ((1, 1), (3, 5), (40, 40))


def reference_group_norm(
    x: Tensor, num_groups: int, *, weight: Tensor, bias: Tensor, eps: float, relu: bool
) -> Tensor:
    return reference_packed.group_norm_relu(x, num_groups, weight, bias, eps, relu)


GROUP_NORMS: dict[str, Callable[..., Tensor]] = {
    "kernel": group_norm_relu,
    "reference": reference_group_norm,
}


def exact_group_norm(
    x: Tensor, num_groups: int, *, weight: Tensor, bias: Tensor, eps: float, relu: bool
) -> Tensor:
    out = F.group_norm(x.double(), num_groups, weight.double(), bias.double(), eps)
    return out.relu() if relu else out


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_groups", [1, 4, 32])
@pytest.mark.parametrize("implementation", GROUP_NORMS)
def test_group_norm_of_all_sizes(
    implementation: str, num_groups: int, dtype: torch.dtype, relu: bool
) -> None:
    weight, bias = torch.randn(64), torch.randn(64)
    for size_hw in SIZES_HW:
        x = (2 * torch.randn(2, 64, *size_hw) + 0.5).to(dtype)
        for same in (x, x.contiguous(memory_format=torch.channels_last)):
            arguments: dict[str, Any] = dict(weight=weight, bias=bias, eps=EPS, relu=relu)
            before = same.clone()
            out = GROUP_NORMS[implementation](same, num_groups, **arguments)
            assert out.is_contiguous(memory_format=torch.channels_last)
            assert_close(out, exact_group_norm(x, num_groups, **arguments), dtype)
            assert torch.equal(same, before)


@pytest.mark.parametrize("implementation", GROUP_NORMS)
def test_groups_of_one_channel_and_one_cell_are_the_bias(implementation: str) -> None:
    x, weight, bias = torch.randn(2, 32, 1, 1), torch.randn(32), torch.randn(32)
    out = GROUP_NORMS[implementation](x, 32, weight=weight, bias=bias, eps=EPS, relu=False)
    torch.testing.assert_close(out, bias[:, None, None].expand_as(x), rtol=1e-4, atol=1e-4)


# The last sum is of two numbers near 100, which float32 rounds by up to 4e-6 each.
@pytest.mark.parametrize("num_groups", [1, 4, 32])
@pytest.mark.parametrize(("implementation", "most"), [("kernel", 2e-5), ("reference", 4e-5)])
def test_a_mean_far_from_zero_costs_few_digits(
    implementation: str, most: float, num_groups: int
) -> None:
    arguments: dict[str, Any] = dict(
        weight=torch.ones(32), bias=torch.zeros(32), eps=EPS, relu=False
    )
    for size_hw in ((3, 5), (40, 40)):
        x = torch.randn(2, 32, *size_hw) + 100
        error = GROUP_NORMS[implementation](x, num_groups, **arguments).double()
        error -= exact_group_norm(x, num_groups, **arguments)
        assert rms(error) < 1e-5 and error.abs().max() < most


@pytest.mark.parametrize("implementation", GROUP_NORMS)
def test_channels_may_lie_far_apart(implementation: str) -> None:
    x = torch.randn(2, 32, 37, 33) + 30 * torch.randn(32)[:, None, None]
    x[:, :, 0, 0] += 50  # no cell stands for all
    arguments: dict[str, Any] = dict(
        weight=torch.randn(32), bias=torch.randn(32), eps=EPS, relu=False
    )
    out = GROUP_NORMS[implementation](x, 4, **arguments)
    assert_close(out, exact_group_norm(x, 4, **arguments), torch.float32)


@pytest.mark.parametrize("implementation", GROUP_NORMS)
def test_constant_maps_give_the_bias(implementation: str) -> None:
    x, bias = torch.full((2, 32, 5, 7), 3.0), torch.randn(32)
    out = GROUP_NORMS[implementation](x, 4, weight=torch.ones(32), bias=bias, eps=EPS, relu=False)
    torch.testing.assert_close(out, bias[:, None, None].expand_as(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", GROUP_NORMS)
def test_what_is_not_finite_makes_its_group_nan(
    implementation: str, dtype: torch.dtype, value: float, relu: bool
) -> None:
    x = torch.randn(2, 32, 37, 33).to(dtype)
    arguments: dict[str, Any] = dict(
        weight=torch.ones(32), bias=torch.zeros(32), eps=EPS, relu=relu
    )
    expected = GROUP_NORMS[implementation](x, 4, **arguments)
    x[1, 10, 36, 2] = value
    out = GROUP_NORMS[implementation](x, 4, **arguments)
    assert bool(out[1, 8:16].isnan().all())
    assert torch.equal(out[0], expected[0])
    assert torch.equal(out[1, :8], expected[1, :8]) and torch.equal(out[1, 16:], expected[1, 16:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_the_result(dtype: torch.dtype) -> None:
    x, weight, bias = torch.randn(2, 64, 67, 45).to(dtype), torch.randn(64), torch.randn(64)
    assert_threads_do_not_matter(
        lambda: group_norm_relu(x, 4, weight=weight, bias=bias, eps=EPS, relu=True)
    )


@pytest.mark.parametrize("implementation", GROUP_NORMS)
def test_results_do_not_depend_on_the_layout(implementation: str) -> None:
    arguments: dict[str, Any] = dict(
        weight=torch.randn(64)[::2], bias=torch.randn(64)[::2], eps=EPS, relu=True
    )
    x, part = torch.randn(2, 32, 7, 6), torch.randn(2, 34, 9, 8)
    part[:, 1:33, 1:8, 1:7] = x
    expected = GROUP_NORMS[implementation](x, 4, **arguments)
    for same in (x.contiguous(memory_format=torch.channels_last), part[:, 1:33, 1:8, 1:7]):
        assert torch.equal(GROUP_NORMS[implementation](same, 4, **arguments), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", GROUP_NORMS)
def test_group_norm_of_an_empty_batch(implementation: str, dtype: torch.dtype) -> None:
    x, weight = torch.zeros(0, 32, 5, 6, dtype=dtype), torch.ones(32)
    out = GROUP_NORMS[implementation](x, 4, weight=weight, bias=weight, eps=EPS, relu=True)
    assert out.shape == x.shape and out.dtype == dtype


@needs_kernels
def test_bad_maps_and_parameters_are_named() -> None:
    x, values = torch.randn(2, 32, 5, 6), torch.randn(32)
    operator = torch.ops.tcm_d2.group_norm_relu
    for wrong, num_groups in ((x, 5), (x, 0), (x, -4), (x[0], 4)):
        with pytest.raises(RuntimeError, match=r"x: expected shape \(N, C, H, W\) with channels"):
            operator(wrong, num_groups, values, values, EPS, True)
    for wrong in (x.double(), x.half(), x.int()):
        with pytest.raises(RuntimeError, match="x: expected float32 or bfloat16, got"):
            operator(wrong, 4, values, values, EPS, True)
    for wrong in (values[:31], values.double(), values.bfloat16(), values[None]):
        for weight, bias in ((wrong, values), (values, wrong)):
            with pytest.raises(RuntimeError, match=r"bias: expected float32 of shape \(32,\), got"):
                operator(x, 4, weight, bias, EPS, True)
