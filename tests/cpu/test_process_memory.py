"""Memory kept for large tensors: reused, bounded, given back; in processes of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tcm_d2.cpu.process_memory import keep_freed_memory, kept_memory
from tcm_d2.ops import extension_status

needs_extension = pytest.mark.skipif(
    not extension_status().loaded, reason="the extension is not built"
)
PREAMBLE = """
import gc, os, torch
from tcm_d2.cpu.process_memory import keep_freed_memory, kept_memory
MiB = 1 << 20
def block(mib):
    return torch.empty(mib * MiB, dtype=torch.uint8)
"""


def run(code: str) -> str:
    """Run ``code`` in a fresh process: the allocator holds for a whole process."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE + code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@needs_extension
def test_freed_blocks_are_reused_and_bounded() -> None:
    run(
        """
early = block(8)
assert keep_freed_memory(32 * MiB) and kept_memory() == 0
del early  # from before: the system's
assert kept_memory() == 0
a = block(16); address = a.data_ptr(); del a
assert kept_memory() == 16 * MiB
a = block(15)  # nearly as large: served by the same memory
assert a.data_ptr() == address and kept_memory() == 0
assert address % 64 == 0
del a
b = block(4)  # much smaller: not
assert b.data_ptr() != address and kept_memory() == 16 * MiB
c, d = block(12), block(20)
del b, c  # 16 + 4 + 12 are 32 MiB
assert kept_memory() == 32 * MiB
del d  # the ones freed first go first: 16 and 4
assert kept_memory() == 32 * MiB
e = block(33); del e  # more than all that may be kept
assert kept_memory() == 0
small = torch.empty(1000); del small
assert kept_memory() == 0
f = block(8); del f
assert not keep_freed_memory(0) and kept_memory() == 0
g = block(8); g.fill_(1); del g
assert kept_memory() == 0
"""
    )


@needs_extension
def test_results_threads_and_children_are_as_before() -> None:
    run(
        """
import threading
torch.manual_seed(0)
x, w = torch.randn(1, 16, 256, 256), torch.randn(16, 16, 3, 3, requires_grad=True)
def step():
    w.grad = None
    torch.nn.functional.conv2d(x, w, padding=1).relu().square().mean().backward()
    return w.grad.clone()
expected = step()
keep_freed_memory()
assert torch.equal(step(), expected) and torch.equal(step(), expected)
torch.empty(0); torch.zeros(5).resize_(1 << 20).resize_(3)
x.share_memory_()
threads = [threading.Thread(target=lambda: [block(2) for _ in range(50)]) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # as in every data loader: OpenMP's threads are not inherited
    y = block(4); y.fill_(3); del y
    os._exit(0 if kept_memory() > 0 else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    )


@needs_extension
def test_too_large_a_tensor_is_refused_as_before() -> None:
    out = run(
        """
keep_freed_memory()
try:
    torch.empty(1 << 50, dtype=torch.uint8)
except RuntimeError as error:
    print(error)
"""
    )
    assert "not enough memory for a tensor of 1125899906842624 bytes" in out


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes: expected 0 or more, got -1"):
        keep_freed_memory(-1)


def test_without_the_extension_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcm_d2.cpu.process_memory._library", lambda: None)
    assert not keep_freed_memory(1 << 20) and kept_memory() == 0
    assert torch.empty(1 << 20).sum() is not None
