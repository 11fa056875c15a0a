"""Pack small text files into a zip quickly: deflate by Huffman codes alone.

Rows of numbers hardly repeat: looking for repetitions, which the standard library's zip writer
cannot leave out, takes most of the time and makes the archive no smaller.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

# 1980-01-01, the first day a zip can name: equal contents give equal archives.
_DATE = (1 << 5) | 1
_DEFLATED = 8
_VERSION = 20  # of the format, for deflated entries
_MADE_ON_UNIX = 3 << 8
_UTF8_NAMES = 0x800
_MODE = 0o100644 << 16
_MAX_SIZE = 2**32 - 1
_MAX_ENTRIES = 2**16 - 1


def pack_zip(contents: Mapping[str, bytes]) -> bytes:
    """Return a zip archive of the given files, in this order.

    Raises:
        ValueError: beyond 4 GB or 65,535 files (these need another format).
    """
    parts: list[bytes] = []
    directory: list[bytes] = []
    offset = 0
    for name, content in contents.items():
        packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
        packed = packer.compress(content) + packer.flush()
        encoded = name.encode("utf-8")
        _check_limit(max(len(content), len(packed), offset), len(directory))
        common = struct.pack(
            "<HHHHIIIHH",
            *(_UTF8_NAMES, _DEFLATED, 0, _DATE, zlib.crc32(content), len(packed), len(content)),
            *(len(encoded), 0),
        )
        header = struct.pack("<4sH", b"PK\x03\x04", _VERSION) + common + encoded
        entry = struct.pack("<4sHH", b"PK\x01\x02", _MADE_ON_UNIX | _VERSION, _VERSION) + common
        directory.append(entry + struct.pack("<HHHII", 0, 0, 0, _MODE, offset) + encoded)
        parts += [header, packed]
        offset += len(header) + len(packed)
    _check_limit(offset, len(directory))
    listing = b"".join(directory)
    end = struct.pack(
        "<4sHHHHIIH", b"PK\x05\x06", 0, 0, len(directory), len(directory), len(listing), offset, 0
    )
    return b"".join([*parts, listing, end])


def _check_limit(size: int, num_entries: int) -> None:
    if size > _MAX_SIZE or num_entries > _MAX_ENTRIES:
        raise ValueError(
            f"zip: expected at most 4 GB and {_MAX_ENTRIES} files, got {size} bytes and "
            f"{num_entries} files; write fewer detections"
        )
