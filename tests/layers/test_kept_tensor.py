"""A value kept from weights is computed again after every kind of change to them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tcm_d2.layers.kept_tensor import KeptTensor


class _Doubled:
    """Twice a weight, with a count of how often that was computed."""

    def __init__(self) -> None:
        self.kept, self.num_computed = KeptTensor(), 0

    def __call__(self, *weights: Tensor) -> Tensor:
        def compute() -> Tensor:
            self.num_computed += 1
            return 2 * weights[0].detach()

        return self.kept.get(weights, compute)


def _step(optimizer: Callable[..., torch.optim.Optimizer], **options: bool) -> Callable:
    def change(layer: nn.Linear) -> None:
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer([layer.weight], lr=0.1, **options).step()

    return change


def _in_place(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight[0] += 1


def _in_inference_mode(layer: nn.Linear) -> None:
    with torch.inference_mode():
        layer.weight.add_(1)


def _average(layer: nn.Linear) -> None:
    torch._foreach_lerp_([layer.weight.detach()], [torch.zeros_like(layer.weight)], 0.5)


def _load(layer: nn.Linear) -> None:
    layer.load_state_dict({"weight": torch.zeros(3, 2)}, strict=False)


def _assign(layer: nn.Linear) -> None:
    layer.load_state_dict({"weight": torch.zeros(3, 2)}, strict=False, assign=True)


def _round(layer: nn.Linear) -> None:
    # The new float32 memory would lie where the old was, if that were free.
    layer.bfloat16().float()


CHANGES = {
    "in place": _in_place,
    "in inference mode": _in_inference_mode,
    "averaging": _average,
    "load_state_dict": _load,
    "load_state_dict(assign)": _assign,
    "SGD": _step(torch.optim.SGD),
    "AdamW one by one": _step(torch.optim.AdamW, foreach=False),
    "AdamW foreach": _step(torch.optim.AdamW, foreach=True),
    "AdamW fused": _step(torch.optim.AdamW, fused=True),
    "rounded": _round,
    "dtype": lambda layer: layer.double(),
    "another parameter": lambda layer: setattr(layer, "weight", nn.Parameter(torch.zeros(3, 2))),
    "a view of other shape": lambda layer: setattr(layer.weight, "data", layer.weight.data.T),
}


@pytest.mark.parametrize("name", CHANGES)
def test_value_follows_the_weight(name: str) -> None:
    layer, doubled = nn.Linear(2, 3), _Doubled()
    first = doubled(layer.weight)
    assert doubled(layer.weight) is first and doubled.num_computed == 1
    CHANGES[name](layer)
    changed = doubled(layer.weight)
    assert doubled.num_computed == 2
    torch.testing.assert_close(changed, 2 * layer.weight.detach(), rtol=0, atol=0)
    assert doubled(layer.weight) is changed


def test_other_device_and_other_number_of_weights() -> None:
    doubled = _Doubled()
    doubled(torch.ones(2))
    assert doubled(torch.ones(2, device="meta")).device.type == "meta"
    weights = [torch.ones(2), torch.ones(3)]
    doubled(*weights)
    doubled(weights[0])
    assert doubled.num_computed == 4


def test_forget() -> None:
    weight, doubled = torch.ones(2), _Doubled()
    doubled(weight)
    # A write that torch does not count.
    weight.data.add_(1)
    doubled.kept.forget()
    assert doubled(weight).tolist() == [4, 4]


def test_value_does_not_depend_on_who_asks_first() -> None:
    layer = nn.Linear(4, 4)

    def value(kept: KeptTensor) -> Tensor:
        return kept.get(layer.parameters(), lambda: layer(torch.ones(1, 4)))

    plain = value(KeptTensor())
    asked_oddly = KeptTensor()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        odd = value(asked_oddly)
    assert odd.dtype == torch.float32 and torch.equal(odd, plain)
    assert not odd.is_inference() and not odd.requires_grad
    # Usable where gradients flow.
    weight = nn.Parameter(torch.ones(4, 4))
    (value(asked_oddly) @ weight).sum().backward()
    assert weight.grad is not None


def test_weights_born_in_inference_mode_are_not_kept() -> None:
    with torch.inference_mode():
        weight = torch.ones(2)
    doubled = _Doubled()
    assert doubled(weight).tolist() == doubled(weight).tolist() == [2, 2]
    assert doubled.num_computed == 2


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_empty(duplicate: Callable[[KeptTensor], KeptTensor]) -> None:
    doubled = _Doubled()
    doubled(torch.ones(2))
    assert duplicate(doubled.kept)._kept is None and doubled.kept._kept is not None
