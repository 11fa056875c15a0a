"""Gradients of 3x3 convolutions by packed weights against torch in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from tcm_d2.cpu import reference_packed
from tcm_d2.cpu.packed import (
    change_layout,
    conv3x3_packed,
    conv3x3_weight_grad,
    pack_conv3x3,
)
from tests.cpu.test_packed import assert_threads_do_not_matter, needs_kernels, rms

WEIGHT_GRADS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kernel": conv3x3_weight_grad,
    "reference": reference_packed.conv3x3_weight_grad,
}
# Without types in torch.
plain_input_grad: Callable[..., Tensor] = conv2d_input
plain_weight_grad: Callable[..., Tensor] = conv2d_weight
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def exact_weight_grad(x: Tensor, grad: Tensor) -> Tensor:
    shape = (grad.shape[1], x.shape[1], 3, 3)
    return plain_weight_grad(x.double(), shape, grad.double(), padding=1)


def assert_nearly_exact(actual: Tensor, exact: Tensor, *, most: float = 1e-5) -> None:
    """Assert that errors are below ``most`` times a typical value."""
    assert actual.dtype == torch.float32 and actual.shape == exact.shape
    assert (actual.double() - exact).abs().max() <= most * rms(exact)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("num_outputs", "channels"), [(16, 16), (48, 33), (272, 48)])
def test_transposed_pack_gives_the_gradient_of_the_input(
    num_outputs: int, channels: int, layout: torch.memory_format
) -> None:
    weight = torch.randn(num_outputs, channels, 3, 3) / num_outputs**0.5
    packed_weight = pack_conv3x3(weight, transposed=True)
    assert packed_weight.num_outputs == channels
    for size_hw in ((1, 1), (5, 6), (9, 4), (37, 23)):
        grad = torch.randn(2, num_outputs, *size_hw).contiguous(memory_format=layout)
        shape = (2, channels, *size_hw)
        exact = plain_input_grad(shape, weight.double(), grad.double(), padding=1)
        assert_nearly_exact(conv3x3_packed(grad, packed_weight, bias=None), exact)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("num_outputs", "channels"), [(1, 1), (33, 16), (16, 33), (64, 272)])
def test_kernel_packs_what_the_twin_packs(
    num_outputs: int, channels: int, transposed: bool
) -> None:
    weight = torch.randn(num_outputs, channels, 3, 3)
    expected = reference_packed.pack_conv3x3(weight, transposed)
    for same in (weight, weight.contiguous(memory_format=torch.channels_last)):
        panels, num_columns = pack_conv3x3(same, transposed=transposed)
        assert panels.shape == expected.shape and panels.is_contiguous()
        assert num_columns == (channels if transposed else num_outputs)
        # Both compute in float64: what they round to float32 differs by a tie at most.
        torch.testing.assert_close(panels, expected, rtol=2**-23, atol=0)
        padding = panels[-1, ..., num_columns % 32 or 32 :]
        assert not padding.any()


def test_transposed_pack_is_that_of_the_turned_kernel() -> None:
    weight = torch.randn(48, 32, 3, 3)
    turned = weight.flip(2, 3).transpose(0, 1)
    panels = pack_conv3x3(weight, transposed=True).panels
    torch.testing.assert_close(panels, pack_conv3x3(turned).panels, rtol=2**-23, atol=0)


def test_pack_of_other_dtypes_is_that_in_float32() -> None:
    weight = torch.randn(40, 16, 3, 3)
    for dtype in (torch.bfloat16, torch.float64):
        given = weight.to(dtype)
        panels = pack_conv3x3(given).panels
        assert panels.dtype == torch.float32
        assert torch.equal(panels, pack_conv3x3(given.float()).panels)


@pytest.mark.parametrize("num_outputs", [16, 48, 64])
@pytest.mark.parametrize("channels", [16, 48, 272])
@pytest.mark.parametrize("implementation", WEIGHT_GRADS)
def test_weight_grad_of_all_channels(implementation: str, channels: int, num_outputs: int) -> None:
    for num_images, height, width in ((2, 1, 1), (1, 4, 9), (2, 9, 6)):
        x = torch.randn(num_images, channels, height, width)
        grad = torch.randn(num_images, num_outputs, height, width)
        actual = WEIGHT_GRADS[implementation](x, grad)
        assert_nearly_exact(actual, exact_weight_grad(x, grad))


@pytest.mark.parametrize("implementation", WEIGHT_GRADS)
def test_weight_grad_of_all_small_maps(implementation: str) -> None:
    for height in range(1, 10):
        for width in range(1, 10):
            x, grad = torch.randn(2, 16, height, width), torch.randn(2, 48, height, width)
            actual = WEIGHT_GRADS[implementation](x, grad)
            assert_nearly_exact(actual, exact_weight_grad(x, grad))


# 60, 306 and 256 tiles an image; chunks are of 256. The reference is torch's own, which is coarser.
@pytest.mark.parametrize("size_hw", [(37, 23), (67, 70), (64, 64)])
@pytest.mark.parametrize(("implementation", "most"), [("kernel", 1e-5), ("reference", 2e-5)])
def test_weight_grad_of_many_tiles(
    implementation: str, most: float, size_hw: tuple[int, int]
) -> None:
    for num_images, channels, num_outputs in ((1, 48, 16), (2, 16, 64)):
        x = torch.randn(num_images, channels, *size_hw)
        grad = torch.randn(num_images, num_outputs, *size_hw)
        actual = WEIGHT_GRADS[implementation](x, grad)
        assert_nearly_exact(actual, exact_weight_grad(x, grad), most=most)


# Measured: 0.66 and 1.2 times 1e-6; torch's own for maps channels last has 0.36.
@pytest.mark.parametrize(("implementation", "most"), [("kernel", 1e-6), ("reference", 2e-6)])
def test_weight_grad_loses_hardly_any_digits(implementation: str, most: float) -> None:
    for channels, num_outputs, height, width in ((272, 48, 37, 23), (16, 64, 67, 70)):
        x = torch.randn(2, channels, height, width).relu()
        grad = torch.randn(2, num_outputs, height, width)
        exact = exact_weight_grad(x, grad)
        error = WEIGHT_GRADS[implementation](x, grad).double() - exact
        assert rms(error) <= most * rms(exact)


@pytest.mark.parametrize("implementation", WEIGHT_GRADS)
def test_weight_grad_of_nothing_is_zero(implementation: str) -> None:
    for num_images, height, width in ((0, 5, 6), (0, 1, 1)):
        x = torch.zeros(num_images, 16, height, width)
        grad = torch.zeros(num_images, 48, height, width)
        actual = WEIGHT_GRADS[implementation](x, grad)
        assert torch.equal(actual, torch.zeros(48, 16, 3, 3))


@needs_kernels
def test_weight_grad_does_not_depend_on_the_layout() -> None:
    x, grad = torch.randn(2, 16, 9, 7), torch.randn(2, 48, 9, 7)
    expected = conv3x3_weight_grad(x, grad)
    assert expected.is_contiguous()
    part = torch.randn(2, 20, 12, 8)
    part[:, 2:18, 1:10, 1:] = x
    for same_x in (x.contiguous(memory_format=torch.channels_last), part[:, 2:18, 1:10, 1:]):
        for same_grad in (grad, grad.contiguous(memory_format=torch.channels_last)):
            assert torch.equal(conv3x3_weight_grad(same_x, same_grad), expected)
    constant = torch.randn(48)[:, None, None].expand(2, 48, 9, 7)
    assert torch.equal(
        conv3x3_weight_grad(x, constant), conv3x3_weight_grad(x, constant.contiguous())
    )


def test_threads_do_not_change_the_result() -> None:
    x, grad = torch.randn(2, 48, 67, 35), torch.randn(2, 80, 67, 35)
    assert_threads_do_not_matter(lambda: conv3x3_weight_grad(x, grad))
    weight = torch.randn(70, 48, 3, 3)
    assert_threads_do_not_matter(lambda: pack_conv3x3(weight).panels)
    assert_threads_do_not_matter(lambda: pack_conv3x3(weight, transposed=True).panels)


@needs_kernels
def test_bad_maps_and_gradients_are_named() -> None:
    x, grad = torch.randn(2, 16, 5, 6), torch.randn(2, 48, 5, 6)
    for wrong in (grad[:1], grad[:, :, 1:], grad[..., :5], grad[0]):
        with pytest.raises(RuntimeError, match=r"grad: expected \(N, K, H, W\) for x of shape"):
            conv3x3_weight_grad(x, wrong)
    for wrong_x, wrong in ((x.double(), grad), (x, grad.bfloat16()), (x.half(), grad.half())):
        with pytest.raises(RuntimeError, match="x and grad: expected float32, got"):
            conv3x3_weight_grad(wrong_x, wrong)
    for wrong_x, wrong in ((x[:, :15], grad), (x, grad[:, :40])):
        with pytest.raises(RuntimeError, match="expected multiples of 16 channels, got"):
            conv3x3_weight_grad(wrong_x, wrong)


@needs_kernels
def test_bad_kernels_are_named() -> None:
    operator = torch.ops.tcm_d2.pack_conv3x3
    for wrong in (torch.randn(4, 4, 3), torch.randn(4, 4, 3, 2), torch.randn(4, 4, 3, 3).double()):
        with pytest.raises(RuntimeError, match=r"weight: expected float32 \(K, C, 3, 3\), got"):
            operator(wrong, False)


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (2, 3, 5, 7), (1, 8, 4, 2), (2, 40, 9, 11), (3, 64, 16, 17), (0, 4, 5, 6)],
)
def test_layouts_change_without_changing_values(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    x_last = x.contiguous(memory_format=torch.channels_last)
    for layout in (torch.channels_last, torch.contiguous_format):
        for source in (x, x_last, x.transpose(2, 3).contiguous().transpose(2, 3), x.double()):
            changed = change_layout(source, layout)
            assert changed.is_contiguous(memory_format=layout) and torch.equal(changed, source)
            assert changed.dtype == source.dtype
        reference = reference_packed.change_layout(x, layout == torch.channels_last)
        assert reference.is_contiguous(memory_format=layout) and torch.equal(reference, x)


def test_maps_that_fit_already_are_not_copied() -> None:
    x = torch.randn(1, 3, 4, 5)
    assert change_layout(x, torch.contiguous_format).data_ptr() == x.data_ptr()
    with pytest.raises(RuntimeError, match=r"x: expected float32 of shape \(N, C, H, W\)"):
        torch.ops.tcm_d2.change_layout(x.flatten(2), True)
