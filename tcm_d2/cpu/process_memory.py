"""Memory that the process keeps for large CPU tensors."""

from __future__ import annotations

import ctypes
from functools import lru_cache

from tcm_d2.ops import extension_status

# What a 1024 px image frees and asks for again, stage by stage; more gains nothing.
DEFAULT_KEPT_BYTES = 256 << 20


def keep_freed_memory(max_bytes: int = DEFAULT_KEPT_BYTES) -> bool:
    """Let torch keep up to ``max_bytes`` of freed CPU memory for its next large tensors.

    Otherwise the system takes every large block back and clears it page by page when it is asked
    for again, which is a fifth of the time of inference or training on the CPU. It holds for the
    whole process from now on, for tensors of 1 MiB and more, and changes no result. The tools do
    this; a library that is imported should not, unless you say so.

    Args:
        max_bytes: kept in all; 0 keeps nothing.

    Returns:
        Whether memory is kept: not without the compiled extension.

    Raises:
        ValueError: ``max_bytes`` is negative.
    """
    if max_bytes < 0:
        raise ValueError(f"max_bytes: expected 0 or more, got {max_bytes}")
    library = _library()
    if library is None:
        return False
    library.tcm_d2_keep_freed_memory(ctypes.c_int64(max_bytes))
    return max_bytes > 0


def kept_memory() -> int:
    """Return how many bytes are kept at the moment."""
    library = _library()
    return 0 if library is None else int(library.tcm_d2_kept_memory())


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    path = extension_status().path
    if path is None:
        return None
    library = ctypes.CDLL(path)
    library.tcm_d2_kept_memory.restype = ctypes.c_int64
    return library
