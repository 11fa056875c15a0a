"""The table of a TIFF that says where its strips or tiles lie: as long as the picture needs?

GDAL takes entries that are not there for blocks without data and gives black pixels. Blocks that
are left out on purpose have an entry of zero, so that a short table is a fault. Format: TIFF 6.0,
sections 2 and 15; BigTIFF has 64-bit offsets.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from tcm_d2.data.raster_reader.kinds import BadImageError, RasterFile, open_regular

_WIDTH, _HEIGHT, _SAMPLES, _PLANAR = 256, 257, 277, 284
_ROWS_PER_STRIP, _STRIP_OFFSETS = 278, 273
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS = 322, 323, 324
_PLANES_APART = 2
# Types of whole numbers that stand in an entry itself, by their number in the format.
_NUMBER_FORMATS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MAX_ENTRIES = 4096


def check_block_table(file: RasterFile) -> None:
    """Raise when the first picture's table of blocks is shorter than the picture.

    What cannot be read is left to the decoder, which refuses it.

    Raises:
        BadImageError: (a ValueError) it is.
    """
    with open_regular(file.path) as stream:
        tags = _read_first_directory(stream)
    values = {tag: value for tag, (_, value) in tags.items()}
    width, height = values.get(_WIDTH, 0), values.get(_HEIGHT, 0)
    if _TILE_OFFSETS in tags:
        table, block_w = _TILE_OFFSETS, values.get(_TILE_WIDTH, 0)
        block_h = values.get(_TILE_HEIGHT, 0)
    elif _STRIP_OFFSETS in tags:
        table, block_w = _STRIP_OFFSETS, width
        block_h = min(values.get(_ROWS_PER_STRIP, height), height)
    else:
        return
    if min(width, height, block_w, block_h) < 1:
        return
    num_needed = -(-width // block_w) * -(-height // block_h)
    if values.get(_PLANAR) == _PLANES_APART:
        num_needed *= values.get(_SAMPLES, 1)
    num_there, _ = tags[table]
    if num_there < num_needed:
        raise BadImageError(
            f"{file.path}: expected a complete TIFF file, got {num_there} of {num_needed} blocks "
            f"for {width} x {height} px; fetch the file again"
        )


def _read_first_directory(stream: BinaryIO) -> dict[int, tuple[int, int]]:
    """Return the count and the first value of each tag of whole numbers; {} if unreadable."""
    head = stream.read(16)
    order = "<" if head[:1] == b"I" else ">"
    # Offsets and counts have 8 bytes in a BigTIFF.
    is_big = 43 in (head[2], head[3])
    start, offset_format, count_format = (8, "Q", "Q") if is_big else (4, "I", "H")
    entry_format, entry_bytes, value_bytes = ("HHQ", 20, 8) if is_big else ("HHI", 12, 4)
    try:
        (offset,) = struct.unpack_from(order + offset_format, head, start)
        stream.seek(offset)
        (num,) = struct.unpack(order + count_format, stream.read(8 if is_big else 2))
        content = stream.read(min(num, _MAX_ENTRIES) * entry_bytes)
        tags = {}
        for at in range(0, len(content) - entry_bytes + 1, entry_bytes):
            tag, kind, count = struct.unpack_from(order + entry_format, content, at)
            number = _NUMBER_FORMATS.get(kind)
            if number is None:
                continue
            place = at + entry_bytes - value_bytes
            fits = struct.calcsize("=" + number) <= value_bytes
            value = struct.unpack_from(order + number, content, place)[0] if fits else 0
            tags[tag] = (count, value)
    except (struct.error, OSError, OverflowError, ValueError):
        return {}
    return tags
