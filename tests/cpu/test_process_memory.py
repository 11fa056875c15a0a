"""Memory kept for large tensors: reused, and the numbers as before; in processes of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tcm_d2.cpu.process_memory import keep_freed_memory

needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc has these settings"
)


def run(code: str) -> str:
    """Run ``code`` in a fresh process: the settings hold for a whole process."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@needs_glibc
def test_large_blocks_are_not_cleared_again() -> None:
    out = run(
        """
import resource, torch
from tcm_d2.cpu import keep_freed_memory
torch.set_num_threads(1)
def faults():
    torch.ones(16 << 20)  # warm
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(16 << 20)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = faults()
assert keep_freed_memory()
# The least of some: a busy system takes back pages of a process that waits.
print(plain, min(faults() for _ in range(4)))
"""
    )
    plain, kept = map(int, out.split())
    assert plain > 0 and kept < 0.1 * plain


@needs_glibc
def test_results_threads_and_children_are_as_before() -> None:
    run(
        """
import os, threading, torch
from tcm_d2.cpu import keep_freed_memory
torch.manual_seed(0)
x, w = torch.randn(1, 16, 256, 256), torch.randn(16, 16, 3, 3, requires_grad=True)
def step():
    w.grad = None
    torch.nn.functional.conv2d(x, w, padding=1).relu().square().mean().backward()
    return w.grad.clone()
expected = step()
assert keep_freed_memory()
assert torch.equal(step(), expected) and torch.equal(step(), expected)
work = lambda: [torch.empty(1 << 21) for _ in range(50)]
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # as in every data loader: OpenMP's threads are not inherited
    os._exit(0 if torch.ones(1 << 21).sum() == 1 << 21 else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    )


@pytest.mark.parametrize("max_bytes", [-1, 0, 1 << 31])
def test_limits_that_are_refused(max_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"max_bytes: expected 1 to 2147483647, got {max_bytes}"):
        keep_freed_memory(max_bytes)


def test_other_c_libraries_keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
