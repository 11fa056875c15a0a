"""Reference implementations of the operators on packed weights; the layouts are defined here.

A packed matrix (K, D) is float32 of shape (panels, D, PANEL): outputs k lie side by side, the last
panel padded with zeros. In bfloat16 it is (panels, D / 2, PANEL, 2), with pairs of inputs side by
side and an odd last one padded. A packed 3x3 kernel is float32 (panels, POINTS, C, PANEL): the
kernel at the 6x6 points of Winograd's algorithm.

Shape letters: N images, C input channels, K outputs, H x W the map, T tiles.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

PANEL = 32
# Winograd's F(4x4, 3x3): tiles of 4x4 outputs from 6x6 inputs, evaluated at 0, +-NEAR, +-FAR and
# infinity. csrc/cpu/conv_kernels_impl.h has the same numbers.
TILE_OUT, TILE_IN = 4, 6
POINTS = TILE_IN * TILE_IN
NEAR, FAR = 0.625, 1.5


def linear_packed(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    columns: int,
) -> Tensor:
    """See `tcm_d2.cpu.packed.linear_packed`; x is (M, D)."""
    if packed.dim() == 4:
        packed = packed.transpose(2, 3).flatten(1, 2)[:, : x.shape[1]].float()  # (P, D, PANEL)
    weight = packed.transpose(1, 2).flatten(0, 1)[:columns]  # (K, D)
    out = F.linear(x.to(packed.dtype), weight, bias)
    if residual is not None:
        out = out + residual
    return (out.relu() if relu else out).to(x.dtype)


def conv3x3_packed(
    x: Tensor, packed: Tensor, bias: Tensor | None, relu: bool, columns: int
) -> Tensor:
    """See `tcm_d2.cpu.packed.conv3x3_packed`."""
    height, width = x.shape[-2:]
    kernel_PCK = packed.permute(1, 2, 0, 3).flatten(2)[..., :columns]
    to_points = input_transform().to(packed)
    from_points = output_transform().to(packed)
    missing = (-width % TILE_OUT, -height % TILE_OUT)
    padded = F.pad(x.to(packed.dtype), (1, 1 + missing[0], 1, 1 + missing[1]))
    tiles = padded.unfold(2, TILE_IN, TILE_OUT).unfold(3, TILE_IN, TILE_OUT)
    inputs = torch.einsum("pi,nchwij,qj->pqnhwc", to_points, tiles, to_points)
    products = torch.einsum("pnhwc,pck->pnhwk", inputs.flatten(0, 1), kernel_PCK)
    products = products.view(TILE_IN, TILE_IN, *products.shape[1:])
    out = torch.einsum("ip,pqnhwk,jq->nkhiwj", from_points, products, from_points)
    out = out.flatten(4, 5).flatten(2, 3)[..., :height, :width]
    if bias is not None:
        out = out + bias[:, None, None]
    out = out.relu() if relu else out
    return out.to(x.dtype).contiguous(memory_format=torch.channels_last)


def pack_conv3x3(weight: Tensor, transposed: bool) -> Tensor:
    """See `tcm_d2.cpu.packed.pack_conv3x3`."""
    if transposed:
        weight = weight.flip(2, 3).transpose(0, 1)
    transform = kernel_transform().to(weight.device)
    points = torch.einsum("pi,kcij,qj->pqkc", transform, weight.double(), transform)
    panels = into_panels(points.to(weight.dtype).flatten(0, 1))
    return panels.transpose(0, 1).contiguous()


def into_panels(weight: Tensor) -> Tensor:
    """Return (..., panels, D, PANEL) from (..., K, D)."""
    padded = F.pad(weight, (0, 0, 0, -weight.shape[-2] % PANEL))
    num_panels = padded.shape[-2] // PANEL
    panels = padded.reshape(*padded.shape[:-2], num_panels, PANEL, padded.shape[-1])
    return panels.transpose(-1, -2).contiguous()


def conv3x3_weight_grad(x: Tensor, grad: Tensor) -> Tensor:
    """See `tcm_d2.cpu.packed.conv3x3_weight_grad`."""
    shape = (grad.shape[1], x.shape[1], 3, 3)
    out: Tensor = conv2d_weight(x, shape, grad, padding=1)  # type: ignore[no-untyped-call]
    return out


def change_layout(x: Tensor, channels_last: bool) -> Tensor:
    """See `tcm_d2.cpu.packed.change_layout`; always a copy."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return x.clone(memory_format=layout)


def group_norm_relu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, relu: bool
) -> Tensor:
    """See `tcm_d2.cpu.packed.group_norm_relu`."""
    # torch's kernel is exact in this layout only.
    contiguous = x.contiguous().to(weight.dtype)
    out = F.group_norm(contiguous, groups, weight, bias, eps)
    out = out.relu() if relu else out
    return out.to(x.dtype).contiguous(memory_format=torch.channels_last)


def kernel_transform() -> Tensor:
    """Return G (6, 3), float64: a kernel's row times G's transpose is the kernel at the points."""
    rows = [[1.0, 0.0, 0.0]]
    rows += [[1.0, point, point**2] for point in _finite_points()[1:]]
    scales = [NEAR**2 * FAR**2]
    scales += [2 * NEAR**2 * (NEAR**2 - FAR**2)] * 2 + [2 * FAR**2 * (FAR**2 - NEAR**2)] * 2
    finite = torch.tensor(rows, dtype=torch.float64) / torch.tensor(scales).double()[:, None]
    return torch.cat([finite, torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)])


def input_transform() -> Tensor:
    """Return B's transpose (6, 6), float64: coefficients of the products of all other points."""
    points = _finite_points()
    rows = [_polynomial([q for q in points if q != p]) + [0.0] for p in points]
    return torch.tensor([*rows, _polynomial(points)], dtype=torch.float64)


def output_transform() -> Tensor:
    """Return A's transpose (4, 6), float64: powers of the points."""
    points = torch.tensor(_finite_points(), dtype=torch.float64)
    powers = torch.stack([points**i for i in range(TILE_OUT)])
    infinity = torch.tensor([[0.0]] * (TILE_OUT - 1) + [[1.0]], dtype=torch.float64)
    return torch.cat([powers, infinity], dim=1)


def _finite_points() -> list[float]:
    return [0.0, NEAR, -NEAR, FAR, -FAR]


def _polynomial(roots: list[float]) -> list[float]:
    """Return the coefficients of the product of (x - root), the constant one first."""
    coefficients = [1.0]
    for root in roots:
        shifted = [0.0, *coefficients]
        scaled = [-root * c for c in coefficients] + [0.0]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients
