"""Turn a finished network fast, and back."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from tcm_d2.cpu.fast_modules import FAST_MODULES, FastLinear, FastModule
from tcm_d2.modeling.clip.attention_pool import DenseAttentionPool


def accelerate(network: nn.Module) -> None:
    """Put fast modules in the place of those that have one, in place, whatever the network is.

    Known are convolutions of 1x1 and 3x3, by themselves and with norm and ReLU: in nn.Sequential,
    in Detectron2's ``Conv2d``, in open_clip's ``Bottleneck``, in our towers, image tower and
    pyramid; ReLU behind GroupNorm; and the attention pool. Subclasses of these are left alone.
    Parameters, buffers, hooks and all names stay, training and inference give the same numbers
    but for rounding, and each fast module does what the plain one does where it is not faster:
    other devices and dtypes, small maps, graphs that are compiled or exported. `restore` undoes it.
    """
    for module, fast in list(_replacements(network)):
        fast.put_in(module)


def restore(network: nn.Module) -> None:
    """Put the plain modules back, in place: the network is as it was before `accelerate`."""
    for module in network.modules():
        if isinstance(module, FastModule):
            module.take_out()


def _replacements(network: nn.Module) -> Iterator[tuple[nn.Module, type[FastModule]]]:
    for module in network.modules():
        fast = FAST_MODULES.get(type(module))
        if fast is not None and fast.can_replace(module):
            yield module, fast
        if type(module) is DenseAttentionPool:
            # The text tower's and the decoders' layers see too few rows to gain.
            yield from ((layer, FastLinear) for layer in module.children() if _is_linear(layer))


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear
