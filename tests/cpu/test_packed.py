"""Linear layers with packed weights against float64, and where kernels are fast."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tcm_d2.cpu import packed, reference_packed
from tcm_d2.cpu.operators import has_kernels
from tcm_d2.cpu.packed import (
    PackedWeight,
    factor_dtype,
    has_fast_kernels,
    linear_packed,
    pack_linear,
)
from tests.conftest import TOLERANCES

# Results are rounded to bfloat16 once: half of its last digit, and a tie that float32 decides.
MAP_TOLERANCES = {torch.float32: TOLERANCES[torch.float32], torch.bfloat16: (2**-8, 1e-5)}
DTYPES = tuple(MAP_TOLERANCES)
INF, NAN = float("inf"), float("nan")

needs_kernels = pytest.mark.skipif(
    not has_kernels(),
    reason="the reference implementations rely on the public functions for checks",
)
needs_bfloat16_factors = pytest.mark.skipif(
    factor_dtype(torch.bfloat16) != torch.bfloat16,
    reason="the processor has no AVX512_BF16, or is faster without",
)


def reference_linear(
    x: Tensor,
    weight: PackedWeight,
    *,
    bias: Tensor | None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    panels, num_outputs = weight
    out: Tensor = reference_packed.linear_packed(x, panels, bias, residual, relu, num_outputs)
    return out


LINEAR: dict[str, Callable[..., Tensor]] = {"kernel": linear_packed, "reference": reference_linear}


def linear_weight(num_outputs: int, num_inputs: int) -> Tensor:
    """Return a weight whose products with normal inputs are of order 1."""
    return torch.randn(num_outputs, num_inputs) / math.sqrt(max(num_inputs, 1))


def exact_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool
) -> Tensor:
    out: Tensor = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    out = out if residual is None else out + residual.double()
    return out.relu() if relu else out


def assert_close(actual: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    assert actual.dtype == dtype
    rtol, atol = MAP_TOLERANCES[dtype]
    torch.testing.assert_close(actual.double(), exact, rtol=rtol, atol=atol)


def rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())


def plain_sums(rows: Tensor, weight: Tensor) -> Tensor:
    """Return ``rows @ weight.T``, summed in float32 in the order of the inputs."""
    sums = torch.zeros(len(rows), len(weight))
    for column, factors in zip(rows.t(), weight.t()):
        sums += column[:, None] * factors
    return sums


def assert_threads_do_not_matter(compute: Callable[[], Tensor]) -> None:
    """Assert that one and two threads give the same bits."""
    before = torch.get_num_threads()
    results: list[Tensor] = []
    try:
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            results.append(compute())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_inputs", [1, 7, 255, 256, 257, 513])
@pytest.mark.parametrize("implementation", LINEAR)
def test_linear_of_all_sizes(implementation: str, num_inputs: int, dtype: torch.dtype) -> None:
    for num_outputs in (1, 15, 32, 33, 64, 70):
        weight = linear_weight(num_outputs, num_inputs)
        bias, packed_weight = torch.randn(num_outputs), pack_linear(weight)
        for num_rows in (0, 1, 13, 14, 15, 113, 300):
            x = torch.randn(num_rows, num_inputs).to(dtype)
            out = LINEAR[implementation](x, packed_weight, bias=bias)
            assert out.shape == (num_rows, num_outputs)
            assert_close(out, exact_linear(x, weight, bias, None, False), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("implementation", LINEAR)
def test_linear_with_bias_shortcut_and_relu(
    implementation: str, with_bias: bool, with_residual: bool, relu: bool, dtype: torch.dtype
) -> None:
    for num_rows, num_inputs, num_outputs in ((17, 40, 70), (3, 300, 33), (1, 1, 1)):
        weight = linear_weight(num_outputs, num_inputs)
        bias = torch.randn(num_outputs) if with_bias else None
        residual = torch.randn(num_rows, num_outputs).to(dtype) if with_residual else None
        x = torch.randn(num_rows, num_inputs).to(dtype)
        out = LINEAR[implementation](
            x, pack_linear(weight), bias=bias, residual=residual, relu=relu
        )
        assert_close(out, exact_linear(x, weight, bias, residual, relu), dtype)


@needs_bfloat16_factors
@pytest.mark.parametrize("num_inputs", [1, 2, 7, 255, 256, 257, 513])
@pytest.mark.parametrize("implementation", LINEAR)
def test_linear_with_factors_in_bfloat16(implementation: str, num_inputs: int) -> None:
    for num_outputs in (1, 32, 70):
        weight = linear_weight(num_outputs, num_inputs)
        packed_weight = pack_linear(weight, dtype=torch.bfloat16)
        bias = torch.randn(num_outputs)
        for num_rows in (0, 1, 13, 15, 113):
            x = torch.randn(num_rows, num_inputs).bfloat16()
            residual = torch.randn(num_rows, num_outputs).bfloat16()
            out = LINEAR[implementation](
                x, packed_weight, bias=bias, residual=residual, relu=num_rows % 2 == 0
            )
            exact = exact_linear(x, weight.bfloat16(), bias, residual, num_rows % 2 == 0)
            assert_close(out, exact, torch.bfloat16)


@pytest.mark.parametrize("implementation", LINEAR)
def test_linear_without_rows(implementation: str) -> None:
    out = LINEAR[implementation](torch.zeros(0, 7), pack_linear(torch.zeros(33, 7)), bias=None)
    assert out.shape == (0, 33)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_without_columns_is_refused(dtype: torch.dtype) -> None:
    weight = pack_linear(torch.zeros(40, 0))
    for num_rows in (0, 50):
        with pytest.raises(RuntimeError, match="x: expected columns, got none"):
            linear_packed(torch.zeros(num_rows, 0).to(dtype), weight, bias=torch.randn(40))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", LINEAR)
def test_linear_does_not_depend_on_the_layout(implementation: str, dtype: torch.dtype) -> None:
    linear, bias = LINEAR[implementation], torch.randn(40)
    rows, residual = torch.randn(15, 30).to(dtype), torch.randn(15, 40).to(dtype)
    matrix = pack_linear(linear_weight(40, 30))
    expected = linear(rows, matrix, bias=bias, residual=residual)
    assert expected.is_contiguous() and expected.dtype == dtype
    strided = torch.stack([residual, residual], dim=-1)[..., 0]
    out = linear(rows.t().contiguous().t(), matrix, bias=bias, residual=strided)
    assert out.is_contiguous() and torch.equal(out, expected)


@pytest.mark.parametrize("implementation", LINEAR)
def test_linear_is_as_exact_as_a_plain_sum(implementation: str) -> None:
    x, weight = torch.randn(300, 256).relu(), torch.randn(64, 256)
    exact = exact_linear(x, weight, None, None, False)
    error = rms(LINEAR[implementation](x, pack_linear(weight), bias=None).double() - exact)
    assert error <= 1.2 * rms(plain_sums(x, weight).double() - exact)
    assert error <= 2 * rms(F.linear(x, weight).double() - exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_the_result(dtype: torch.dtype) -> None:
    rows, weight = torch.randn(300, 257).to(dtype), linear_weight(70, 257)
    for packed_weight in (pack_linear(weight), pack_linear(weight, dtype=factor_dtype(dtype))):
        assert_threads_do_not_matter(partial(linear_packed, rows, packed_weight, bias=None))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", LINEAR)
def test_linear_keeps_what_is_not_finite_in_its_row(
    implementation: str, dtype: torch.dtype
) -> None:
    weight, x = linear_weight(33, 20).abs(), torch.randn(4, 20).to(dtype)
    x[1, 3], x[2, 19], x[3, 0] = NAN, INF, -INF
    for relu in (False, True):
        out = LINEAR[implementation](x, pack_linear(weight), bias=None, relu=relu)
        assert bool(out[0].isfinite().all()) and bool(out[1].isnan().all())
        assert bool(out[2].eq(INF).all()) and bool(out[3].eq(0 if relu else -INF).all())


def test_layout_of_packed_weights() -> None:
    weight = torch.randn(33, 7)
    panels, num_outputs = pack_linear(weight)
    assert panels.shape == (2, 7, 32) and num_outputs == 33 and panels.is_contiguous()
    assert torch.equal(panels[0], weight[:32].t()) and torch.equal(panels[1, :, 0], weight[32])
    assert not panels[1, :, 1:].any()
    pairs = pack_linear(weight, dtype=torch.bfloat16).panels
    assert pairs.shape == (2, 4, 32, 2) and pairs.is_contiguous()
    assert torch.equal(pairs[0, 1, 5], weight[5, 2:4].bfloat16())
    assert pairs[0, 3, 5].tolist() == [weight[5, 6].bfloat16().item(), 0]


@needs_kernels
def test_bad_maps_and_weights_of_a_linear_layer_are_named() -> None:
    x, (panels, _), bias = torch.randn(5, 8), pack_linear(torch.randn(40, 8)), torch.randn(40)
    pairs = pack_linear(torch.randn(40, 8), dtype=torch.bfloat16).panels
    operator, half = torch.ops.tcm_d2.linear_packed, x.bfloat16()
    for wrong in (x.double(), x.half(), x.int()):
        with pytest.raises(RuntimeError, match="x: expected float32 or bfloat16, got"):
            operator(wrong, panels, bias, None, False, 40)
    for other in (panels[0], panels[..., :31], panels.double(), pairs[..., 0], pairs[:, :, 1:]):
        with pytest.raises(RuntimeError, match=r"packed: expected float32 \(P, D, 32\) or bfloat"):
            operator(x, other, bias, None, False, 40)
    with pytest.raises(RuntimeError, match="packed: expected it contiguous"):
        operator(x, panels.transpose(0, 1).contiguous().transpose(0, 1), None, None, False, 40)
    for columns in (32, 65, 0, -1):
        with pytest.raises(RuntimeError, match=f"expected a number for 2 panels, got {columns}"):
            operator(x, panels, None, None, False, columns)
    for shift in (bias.double(), bias[:39], bias[None], torch.randn(80)[::2]):
        with pytest.raises(RuntimeError, match=r"bias: expected float32 of shape \(40,\)"):
            operator(x, panels, shift, None, False, 40)
    for wrong in (x[0], x[:, :7], torch.randn(5, 9), x[None]):
        with pytest.raises(RuntimeError, match=r"x: expected shape \(M, 8\), got"):
            operator(wrong, panels, bias, None, False, 40)
    for wrong in (half[:, :6], torch.randn(5, 9).bfloat16()):
        with pytest.raises(RuntimeError, match=r"x: expected shape \(M, 8\), got"):
            operator(wrong, pairs, bias, None, False, 40)
    with pytest.raises(RuntimeError, match="packed: bfloat16 needs maps in bfloat16 and a proc"):
        operator(x, pairs, bias, None, False, 40)
    for residual in (torch.randn(5, 39), torch.randn(40), torch.randn(5, 40).bfloat16()):
        with pytest.raises(RuntimeError, match=r"residual: expected Float of shape \[5, 40\], got"):
            operator(x, panels, bias, residual, False, 40)


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """A processor with AVX-512 and the extension built: its further features, to be changed."""
    features: set[str] = set()
    monkeypatch.setattr(packed, "has_kernels", lambda: True)
    monkeypatch.setattr(packed, "_processor_has", features.__contains__)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    return features


def test_which_dtypes_have_fast_kernels(processor: set[str]) -> None:
    assert has_fast_kernels(torch.float32) and has_fast_kernels(torch.bfloat16)
    for dtype in (torch.float64, torch.float16, torch.int32):
        assert not has_fast_kernels(dtype)
    processor.add("amx_tile")
    assert has_fast_kernels(torch.float32) and not has_fast_kernels(torch.bfloat16)


@pytest.mark.parametrize(
    ("machine", "capability", "is_built", "expected"),
    [
        ("AMD64", "AVX2", True, True),
        ("x86_64", "AVX512", True, True),
        ("x86_64", "AVX512", False, False),
        ("x86_64", "DEFAULT", True, False),
        ("x86_64", "NO AVX", True, False),
        ("aarch64", "AVX512", True, False),
        ("aarch64", "DEFAULT", True, False),
        ("", "AVX512", True, False),
    ],
)
def test_where_there_are_fast_kernels(
    processor: set[str],
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    capability: str,
    is_built: bool,
    expected: bool,
) -> None:
    monkeypatch.setattr(packed, "has_kernels", lambda: is_built)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for dtype in DTYPES:
        assert has_fast_kernels(dtype) is expected


def test_factors_are_bfloat16_only_where_that_is_faster(
    processor: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert factor_dtype(torch.bfloat16) == torch.float32
    processor.add("avx512_bf16")
    assert factor_dtype(torch.bfloat16) == torch.bfloat16
    assert factor_dtype(torch.float32) == torch.float32
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert factor_dtype(torch.bfloat16) == torch.float32


def test_an_unknown_feature_of_the_processor_is_lacking() -> None:
    assert not packed._processor_has("no_such_thing")
