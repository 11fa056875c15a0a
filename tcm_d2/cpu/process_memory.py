"""Memory that the process keeps for large tensors, by the settings of the C library."""

from __future__ import annotations

import ctypes
import platform

# What a 1024 px image frees and asks for again, stage by stage; more gains nothing.
DEFAULT_KEPT_BYTES = 256 << 20
# Numbers of the settings in malloc.h of glibc; see mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST = (1 << 31) - 1  # a setting is an int


def keep_freed_memory(max_bytes: int = DEFAULT_KEPT_BYTES) -> bool:
    """Let the process keep up to ``max_bytes`` of freed memory for its next large tensors.

    Otherwise the C library maps every large block anew and the system clears it page by page, which
    is a sixth of the CPU time of inference. It holds for the whole process from now on and changes
    no result. The tools do this; a library that is imported should not, unless you say so.

    Args:
        max_bytes: larger blocks go back to the system at once, and so does what is free at the end
            of the heap beyond as much.

    Returns:
        Whether memory is kept: only glibc (Linux) has these settings.

    Raises:
        ValueError: ``max_bytes`` is not positive, or 2 GiB or more.
    """
    if not 0 < max_bytes <= _LARGEST:
        raise ValueError(f"max_bytes: expected 1 to {_LARGEST}, got {max_bytes}")
    if platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    options = {_MMAP_THRESHOLD: max_bytes, _TRIM_THRESHOLD: max_bytes, _TOP_PAD: max_bytes // 4}
    return all(set_option(option, value) == 1 for option, value in options.items())
