"""What kind of raster a file is, by its first bytes, and whether its claims can be true.

Nothing is decoded here. Files come from strangers: only regular files are opened, only by the
decoder of their kind, and only where the size that the head claims can be held by so many bytes.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import BinaryIO

# Endings of files that folders of pictures are searched for.
IMAGE_SUFFIXES: tuple[str, ...] = (
    ".png",
    ".jpg",
    ".jpeg",
    ".tif",
    ".tiff",
    ".bmp",
    ".webp",
    ".jp2",
    ".img",
)
# GDAL's virtual raster names other files; it is opened only by this name, never out of a folder.
VRT_SUFFIX = ".vrt"
NUM_HEAD_BYTES = 1024
# A square of 370,000 px; the largest mosaics of satellites have a tenth of it.
MAX_PX = 2**37
# What any file may claim when it is read window by window, and when it is read whole (bytes).
_MIN_WINDOWED_BYTES = 2**28
_MIN_WHOLE_BYTES = 2**28
# Pictures shrink by 20 at most, drawings and masks by 100; beyond it is a decompression bomb.
_MAX_WHOLE_EXPANSION = 200
_JPEG_START, _PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_JPEG_END = b"\xff\xd9"
# Markers of a JPEG's head that have no length: TEM, RST0 to RST7, SOI.
_JPEG_BARE = {0x01, *range(0xD0, 0xD9)}
_JPEG_SCAN = 0xDA
# Without O_NONBLOCK the opening of a pipe waits for a writer; Windows has its own line ends.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_BEFORE_XML = b"\xef\xbb\xbf \t\r\n"
_NEED_FILE = "fetch the file again"


class BadImageError(ValueError):
    """An image file that cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class FileKind:
    """A kind of raster.

    Attributes:
        name: for messages.
        driver: of GDAL.
        starts: the first bytes; any of these.
        max_expansion: decoded bytes that one byte of the file can stand for, by the format's rules.
        has_windows: a part can be decoded without all that is above it.
        opencv_decodes: OpenCV decodes it whole whether or not GDAL is there: several times as fast,
            and lossy kinds have one decoder, so that small and large files give the same pixels.
    """

    name: str
    driver: str
    starts: tuple[bytes, ...]
    max_expansion: int
    has_windows: bool = False
    opencv_decodes: bool = False


JPEG = FileKind("JPEG", "JPEG", (_JPEG_START,), 2000, opencv_decodes=True)
PNG = FileKind("PNG", "PNG", (_PNG_START,), 1100)
BMP = FileKind("BMP", "BMP", (b"BM",), 1000, opencv_decodes=True)
WEBP = FileKind("WebP", "WEBP", (b"RIFF",), 50_000, opencv_decodes=True)
TIFF = FileKind(
    "TIFF", "GTiff", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), 100_000, has_windows=True
)
JPEG2000 = FileKind(
    "JPEG 2000", "JP2OpenJPEG", (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), 100_000
)
HFA = FileKind("Erdas Imagine", "HFA", (b"EHFA_HEADER_TAG",), 100_000, has_windows=True)
VRT = FileKind("GDAL virtual raster", "VRT", (b"<VRTDataset",), MAX_PX, has_windows=True)
# The allow-list: GDAL's other drivers, some of which use the network, are never asked.
KINDS = (JPEG, PNG, TIFF, BMP, WEBP, JPEG2000, HFA)


@dataclass(frozen=True)
class RasterFile:
    """A regular file of a known kind.

    Attributes:
        path: as given.
        kind: by its first bytes.
        num_bytes: its size.
    """

    path: str
    kind: FileKind
    num_bytes: int

    def check_size(
        self, size_hw: tuple[int, int], *, bytes_per_px: int, whole: bool = False
    ) -> None:
        """Raise unless a file of so many bytes can hold a picture of this size.

        Args:
            size_hw: that the head claims.
            bytes_per_px: of all bands.
            whole: it is to be decoded in one piece.

        Raises:
            BadImageError: it cannot, or decoding it would take memory out of all proportion.
        """
        height, width = size_hw
        claimed = height * width * max(1, bytes_per_px)
        can_hold = max(_MIN_WINDOWED_BYTES, self.num_bytes * self.kind.max_expansion)
        if min(size_hw) < 1 or height * width > MAX_PX or claimed > can_hold:
            raise BadImageError(
                f"{self.path}: its head claims {width} x {height} px, which {self.num_bytes} bytes "
                f"of {self.kind.name} cannot hold; {_NEED_FILE}"
            )
        if whole and claimed > max(_MIN_WHOLE_BYTES, self.num_bytes * _MAX_WHOLE_EXPANSION):
            raise BadImageError(
                f"{self.path}: {self.num_bytes} bytes that unpack to {claimed} bytes "
                f"({width} x {height} px) are not read whole: they look like a decompression bomb; "
                "if this is a real picture, split it (tcm-d2 split reads it row by row)"
            )


def inspect_file(path: str | os.PathLike[str]) -> RasterFile:
    """Return what kind of raster a file is; the name's ending counts only for ``.vrt``.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: (a ValueError) not a regular file, empty, or of no kind that is read here.
    """
    path = os.fspath(path)
    with open_regular(path) as stream:
        head = stream.read(NUM_HEAD_BYTES)
        num_bytes = os.fstat(stream.fileno()).st_size
    if not head:
        raise BadImageError(f"{path}: expected an image file, got 0 bytes; {_NEED_FILE}")
    kind = kind_of(head, path)
    if kind is None:
        raise BadImageError(
            f"{path}: expected an image file ({', '.join(IMAGE_SUFFIXES)}), got {num_bytes} bytes "
            f"that are none; {_NEED_FILE}"
        )
    return RasterFile(path, kind, num_bytes)


def kind_of(head: bytes, path: str) -> FileKind | None:
    """Return the kind of a file that begins with these bytes."""
    for kind in KINDS:
        if head.startswith(kind.starts):
            return None if kind is WEBP and head[8:12] != b"WEBP" else kind
    is_named_vrt = path.lower().endswith(VRT_SUFFIX)
    if is_named_vrt and head.lstrip(_BEFORE_XML).startswith((*VRT.starts, b"<?xml", b"<!")):
        return VRT
    return None


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading; a pipe, a device or a folder is refused without waiting.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: (a ValueError) it is something else, or the path is none.
    """
    try:
        handle = os.open(path, _OPEN_FLAGS)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: image file not found") from None
    except ValueError as error:  # a null character
        raise BadImageError(f"{path!r}: expected a path, got {error}") from None
    except OSError as error:
        if not isinstance(error, PermissionError) and not os.path.isfile(path):
            raise BadImageError(f"{path}: expected an image file, got no regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BadImageError(
            f"{path}: expected an image file, got a folder, pipe or device; give a regular file"
        )
    return os.fdopen(handle, "rb")


def check_end(file: RasterFile, stream: BinaryIO) -> None:
    """Raise when a JPEG or PNG lacks its end; bytes behind the end are allowed.

    Decoders return a half-grey picture for some of these files.

    Raises:
        BadImageError: (a ValueError) the file is truncated.
    """
    if file.kind is PNG:
        is_whole = _png_has_end(stream, file.num_bytes)
    elif file.kind is JPEG:
        stream.seek(max(0, file.num_bytes - len(_JPEG_END)))
        is_whole = stream.read() == _JPEG_END
        if not is_whole:
            stream.seek(0)
            is_whole = find_jpeg_end(stream.read()) is not None
    else:
        return
    if not is_whole:
        raise BadImageError(
            f"{file.path}: expected a complete image file, got a truncated one of "
            f"{file.num_bytes} bytes (the end mark is missing); {_NEED_FILE}"
        )


def find_jpeg_end(raw: bytes) -> int | None:
    """Return where a JPEG's end mark stands; None without one.

    Thumbnails in the head have an end mark of their own: the head is stepped over by its lengths.
    """
    at = 2
    while at + 4 <= len(raw) and raw[at] == 0xFF:
        marker = raw[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _JPEG_BARE:
            at += 2
        else:
            at += 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
            if marker == _JPEG_SCAN:
                break
    end = raw.find(_JPEG_END, at)
    return end if end >= 0 else None


def _png_has_end(stream: BinaryIO, num_bytes: int) -> bool:
    stream.seek(max(0, num_bytes - 12))
    if stream.read(12)[4:8] == b"IEND":
        return True
    # Bytes behind the end, or none: go from chunk to chunk.
    at = len(_PNG_START)
    while at + 12 <= num_bytes:
        stream.seek(at)
        head = stream.read(8)
        if head[4:] == b"IEND":
            return True
        at += 12 + int.from_bytes(head[:4], "big")
    return False
