"""3x3 convolutions by Winograd's algorithm in training: the numbers of nn.Conv2d."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tcm_d2.cpu import accelerate, fast_conv, packed
from tcm_d2.cpu.fast_modules import FastConv2d
from tcm_d2.cpu.packed import has_fast_kernels

LAYOUTS = (torch.contiguous_format, torch.channels_last)
THRESHOLDS = {name: getattr(packed, name) for name in ("MIN_CONV3X3_CELLS", "MIN_CONV3X3_CHANNELS")}

needs_kernels = pytest.mark.skipif(
    not has_fast_kernels(torch.float32), reason="nothing is packed on this processor"
)


@pytest.fixture(autouse=True)
def _small_maps_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MIN_CONV3X3_CELLS", 1)
    monkeypatch.setattr(packed, "MIN_CONV3X3_CHANNELS", 16)


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the operators that were called."""
    calls: list[str] = []

    def watch(name: str) -> None:
        operator = getattr(fast_conv, name)

        def run(*args: object, **kwargs: object) -> object:
            calls.append(name)
            return operator(*args, **kwargs)

        monkeypatch.setattr(fast_conv, name, run)

    for name in ("conv3x3_packed", "conv3x3_weight_grad", "pack_conv3x3"):
        watch(name)
    return calls


def both_convs(*, bias: bool = True, channels: int = 32) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Return a convolution that is accelerated, and its plain copy."""
    plain = nn.Conv2d(channels, 48, 3, padding=1, bias=bias)
    fast = copy.deepcopy(plain)
    accelerate(fast)
    assert type(fast) is FastConv2d
    return fast, plain


def run(conv: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    """Return the output and its gradients to the input and all parameters."""
    x = x.detach().requires_grad_()
    out: Tensor = conv(x)
    return [out.detach(), *torch.autograd.grad(out, [x, *conv.parameters()], grad)]


def make_maps(num_images: int = 2, height: int = 9, width: int = 7) -> tuple[Tensor, Tensor]:
    """Return maps for `both_convs` and gradients of its output."""
    return torch.randn(num_images, 32, height, width), torch.randn(num_images, 48, height, width)


def assert_rounded(actual: Tensor, exact: Tensor) -> None:
    assert actual.dtype == torch.float32 and actual.shape == exact.shape
    assert (actual.double() - exact).abs().max() <= 1e-5 * exact.square().mean().sqrt()


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "1x1": lambda: nn.Conv2d(32, 32, 1),
    "5x5": lambda: nn.Conv2d(32, 32, 5, padding=2),
    "1x3": lambda: nn.Conv2d(32, 32, (1, 3), padding=(0, 1)),
    "stride": lambda: nn.Conv2d(32, 32, 3, padding=1, stride=2),
    "stride across": lambda: nn.Conv2d(32, 32, 3, padding=1, stride=(1, 2)),
    "dilation": lambda: nn.Conv2d(32, 32, 3, padding=1, dilation=2),
    "groups": lambda: nn.Conv2d(32, 32, 3, padding=1, groups=2),
    "no border": lambda: nn.Conv2d(32, 32, 3),
    "border by name": lambda: nn.Conv2d(32, 32, 3, padding="same"),
    "circular border": lambda: nn.Conv2d(32, 32, 3, padding=1, padding_mode="circular"),
    "few inputs": lambda: nn.Conv2d(16, 32, 3, padding=1),
    "few outputs": lambda: nn.Conv2d(32, 16, 3, padding=1),
    "odd inputs": lambda: nn.Conv2d(40, 32, 3, padding=1),
    "odd outputs": lambda: nn.Conv2d(32, 45, 3, padding=1),
    "transposed": lambda: nn.ConvTranspose2d(32, 32, 3, padding=1),
    "subclass": lambda: type("Own", (nn.Conv2d,), {})(32, 32, 3, padding=1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_layers_train_as_plain(name: str, kernel_calls: list[str]) -> None:
    fast = nn.Sequential(OTHERS[name](), nn.ReLU())
    plain = copy.deepcopy(fast)
    accelerate(fast)
    x = torch.randn(2, 40 if name == "odd inputs" else 16 if name == "few inputs" else 32, 9, 7)
    assert torch.equal(fast(x), plain(x)) and not kernel_calls


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size_hw", [(1, 1), (4, 4), (9, 7), (37, 23)])
def test_output_and_gradients_are_the_exact_ones_rounded(
    size_hw: tuple[int, int], bias: bool, layout: torch.memory_format
) -> None:
    fast, plain = both_convs(bias=bias)
    x, grad = make_maps(2, *size_hw)
    exact = run(plain.double(), x.double(), grad.double())
    actual = run(fast, x.contiguous(memory_format=layout), grad)
    assert len(actual) == (4 if bias else 3)
    for ours, theirs in zip(actual, exact, strict=True):
        assert_rounded(ours, theirs)
    out, grad_x = actual[:2]
    assert out.is_contiguous(memory_format=layout) and grad_x.is_contiguous(memory_format=layout)


@needs_kernels
def test_kernels_serve_forward_and_backward(kernel_calls: list[str]) -> None:
    fast, _ = both_convs()
    run(fast, *make_maps())
    packs = ["pack_conv3x3", "conv3x3_packed"]
    assert kernel_calls == [*packs, *packs, "conv3x3_weight_grad"]


@needs_kernels
def test_what_needs_no_gradient_costs_none(kernel_calls: list[str]) -> None:
    (fast, plain), (x, grad) = both_convs(), make_maps()
    expected = run(plain, x, grad)
    out = fast(x)
    out.backward(grad)  # an image
    assert kernel_calls == ["pack_conv3x3", "conv3x3_packed", "conv3x3_weight_grad"]
    assert fast.weight.grad is not None and fast.bias is not None and fast.bias.grad is not None
    torch.testing.assert_close(fast.weight.grad, expected[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fast.bias.grad, expected[3], rtol=1e-4, atol=1e-4)

    kernel_calls.clear()
    fast.weight.requires_grad_(False)  # a frozen weight below others
    fast.weight.grad = None
    leaf = x.clone().requires_grad_()
    fast(leaf).backward(grad)
    assert kernel_calls == ["pack_conv3x3", "conv3x3_packed"] * 2
    torch.testing.assert_close(leaf.grad, expected[1], rtol=1e-4, atol=1e-5)
    assert fast.weight.grad is None

    kernel_calls.clear()
    for parameter in fast.parameters():
        parameter.requires_grad_(False)
    assert not fast(x).requires_grad
    with torch.no_grad():
        assert not fast(leaf).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), expected[0], rtol=1e-4, atol=1e-5)
    assert kernel_calls == ["pack_conv3x3", "conv3x3_packed"] * 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_may_lie_anyhow(layout: torch.memory_format) -> None:
    fast, _ = both_convs()
    x, grad = make_maps()
    x = x.contiguous(memory_format=layout)
    expected = run(fast, x, grad)
    part = torch.randn(2, 50, 12, 8)
    part[:, 1:49, 2:11, 1:] = grad
    turned = grad.transpose(2, 3).contiguous().transpose(2, 3)
    for same in (
        grad.contiguous(memory_format=torch.channels_last),
        part[:, 1:49, 2:11, 1:],
        turned,
    ):
        actual = run(fast, x, same)
        assert_same(actual[:3], expected[:3])
        torch.testing.assert_close(actual[3], expected[3], rtol=1e-5, atol=1e-5)  # summed by torch
    one = torch.ones(()).expand_as(grad)  # of a sum
    assert_same(run(fast, x, one)[:3], run(fast, x, one.contiguous())[:3])


def test_inputs_may_lie_anyhow() -> None:
    fast, _ = both_convs()
    x, grad = make_maps()
    expected, part = run(fast, x, grad), torch.randn(2, 34, 11, 9)
    part[:, 1:33, 1:10, 1:8] = x
    for same in (part[:, 1:33, 1:10, 1:8], x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert_same(run(fast, same, grad), expected)


def _step(conv: nn.Conv2d, *, fused: bool = False) -> None:
    for parameter in conv.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(conv.parameters(), lr=0.1, fused=fused).step()


def _step_fused(conv: nn.Conv2d) -> None:
    _step(conv, fused=True)


def _load(conv: nn.Conv2d, *, assign: bool = False) -> None:
    state = {name: 0.5 * value for name, value in conv.state_dict().items()}
    conv.load_state_dict(state, assign=assign)


def _load_and_assign(conv: nn.Conv2d) -> None:
    _load(conv, assign=True)


def _write(conv: nn.Conv2d) -> None:
    with torch.no_grad():
        conv.weight.mul_(1.5)


def _write_data(conv: nn.Conv2d) -> None:
    conv.weight.data.mul_(1.5)  # counts no version


@pytest.mark.parametrize(
    "change", [_step, _step_fused, _load, _load_and_assign, _write, _write_data]
)
def test_changed_weights_are_followed(change: Callable[[nn.Conv2d], None]) -> None:
    (fast, plain), (x, grad) = both_convs(), make_maps()
    before = run(fast, x, grad)
    for conv in (fast, plain):
        change(conv)
    after = run(fast, x, grad)
    for ours, theirs in zip(after, run(plain.double(), x.double(), grad.double()), strict=True):
        assert_rounded(ours, theirs)
    for i in (0, 1):
        assert not torch.allclose(after[i], before[i], rtol=1e-3)


@needs_kernels
def test_second_derivatives_are_refused() -> None:
    fast, _ = both_convs()
    x = torch.randn(1, 32, 5, 4, requires_grad=True)
    (grad_x,) = torch.autograd.grad(fast(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad_x.sum().backward()  # type: ignore[no-untyped-call]


def test_checkpointing_gives_the_same_bits() -> None:
    first, _ = both_convs()
    second = nn.Conv2d(48, 48, 3, padding=1)
    accelerate(second)
    layers = nn.Sequential(first, nn.GroupNorm(4, 48), nn.ReLU(), second, nn.ReLU())

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = checkpoint(self.layers, x, use_reentrant=False)
            return out

    x, grad = make_maps()
    expected = run(layers, x, grad)
    assert_same(run(Checkpointed(), x, grad), expected)
    assert_same(run(layers, x, grad), expected)


def test_copies_and_pickles_hold_nothing_packed() -> None:
    fast, plain = both_convs()
    x, grad = make_maps()
    expected = run(fast, x, grad)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert type(other) is FastConv2d and other.weight is not fast.weight
        assert set(vars(other)) == {*vars(plain), "_layers"} and len(other._layers) == 0
        assert_same(run(other, x, grad), expected)
        with torch.no_grad():
            other.weight.zero_()
        assert not other(x).equal(expected[0])
    assert torch.equal(fast(x), expected[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_float64_is_as_plain(layout: torch.memory_format, kernel_calls: list[str]) -> None:
    fast, plain = both_convs()
    x, grad = (map_.double().contiguous(memory_format=layout) for map_ in make_maps())
    assert_same(run(fast.double(), x, grad), run(plain.double(), x, grad))
    assert not kernel_calls


def test_autocast_is_as_plain(kernel_calls: list[str]) -> None:
    (fast, plain), (x, grad) = both_convs(), make_maps()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, expected = (run(conv, x, grad.bfloat16()) for conv in (fast, plain))
    assert actual[0].dtype == torch.bfloat16 and not kernel_calls
    assert_same(actual, expected)


def test_bfloat16_is_as_plain(kernel_calls: list[str]) -> None:
    fast, plain = both_convs()
    x, grad = (map_.bfloat16() for map_ in make_maps())
    assert_same(run(fast.bfloat16(), x, grad), run(plain.bfloat16(), x, grad))
    assert not kernel_calls


def test_small_maps_are_as_plain(kernel_calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in THRESHOLDS.items():
        monkeypatch.setattr(packed, name, value)
    fast, plain = both_convs(channels=64)
    x = torch.randn(1, 64, 31, 33)
    assert_same(run(fast, x, grad := torch.randn(1, 48, 31, 33)), run(plain, x, grad))
    narrow, plain_narrow = both_convs()
    maps = make_maps(1, 32, 32)
    assert_same(run(narrow, *maps), run(plain_narrow, *maps))
    assert not kernel_calls
    fast(torch.randn(1, 64, 32, 32))
    assert bool(kernel_calls) == has_fast_kernels(torch.float32)


def test_empty_batches_are_as_plain() -> None:
    fast, plain = both_convs()
    maps = make_maps(0)
    assert_same(run(fast, *maps), run(plain, *maps))


def test_maps_without_images_are_as_plain() -> None:
    (fast, plain), (x, _) = both_convs(), make_maps()
    torch.testing.assert_close(fast(x[0]), plain(x[0]), rtol=1e-4, atol=1e-5)


def test_weights_written_before_the_backward_pass_are_noticed() -> None:
    fast, _ = both_convs()
    x = torch.randn(1, 32, 5, 4, requires_grad=True)
    out = fast(x)
    with torch.no_grad():
        fast.weight.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(out.sum(), x)


def test_weights_lent_for_one_call_give_their_gradients() -> None:
    fast, plain = both_convs()
    x = torch.randn(1, 32, 5, 4, requires_grad=True)
    lent = {name: torch.randn_like(value) for name, value in plain.state_dict().items()}
    grads = [
        torch.autograd.grad(torch.func.functional_call(conv, lent, (x,)).sum(), x)[0]
        for conv in (fast, plain)
    ]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)


def test_meta_tensors_give_shapes() -> None:
    fast, _ = both_convs()
    assert fast.to("meta")(torch.randn(2, 32, 5, 4, device="meta")).shape == (2, 48, 5, 4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled_graphs_are_as_plain(layout: torch.memory_format, kernel_calls: list[str]) -> None:
    fast, plain = both_convs()
    x, grad = (map_.contiguous(memory_format=layout) for map_ in make_maps())
    torch._dynamo.reset()
    compiled: Any = torch.compile(fast, backend="aot_eager", fullgraph=True)
    assert_same(run(compiled, x, grad), run(plain, x, grad))
    assert not kernel_calls


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
def test_traced_graphs_are_as_plain(kernel_calls: list[str]) -> None:
    (fast, plain), (x, _) = both_convs(), make_maps()
    # To check, the module would run untraced.
    traced: Any = torch.jit.trace(fast, x, check_trace=False)  # type: ignore[no-untyped-call]
    assert "aten::_convolution" in str(traced.inlined_graph) and not kernel_calls
    assert torch.equal(traced(x), plain(x))


def test_exported_graphs_hold_no_operators_of_ours(kernel_calls: list[str]) -> None:
    (fast, plain), (x, _) = both_convs(), make_maps()
    program = torch.export.export(fast, (x,))
    assert "tcm_d2" not in str(program.graph) and not kernel_calls
    assert torch.equal(program.module()(x), plain(x))


def test_training_goes_as_with_plain_convolutions() -> None:
    fast, plain = both_convs()
    x, target = torch.randn(2, 32, 9, 7), torch.randn(2, 48, 9, 7)
    losses: list[list[float]] = []
    for conv in (fast, plain):
        optimizer, history = torch.optim.AdamW(conv.parameters(), lr=0.01), []
        for _ in range(6):
            optimizer.zero_grad()
            loss = F.mse_loss(conv(x), target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            history.append(loss.item())
        losses.append(history)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][-1] < 0.9 * losses[0][0]
