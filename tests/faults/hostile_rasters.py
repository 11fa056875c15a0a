"""Rasters made to do harm: lying heads, bombs, files that name others; and mutations of good ones.

    python -m tests.faults.hostile_rasters --minutes 5

reads mutated files of every kind in a child process, and prints how many were tried, what became of
them, and the largest time and memory. A file that kills the child, takes too long or gives another
error than the one of bad images is kept and named, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import resource
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Of one file, on a busy machine.
MAX_SECONDS = 20.0
# Beside what Python and the libraries take. Twice what a file may unpack to without being asked for
# proof by its size (256 MB).
MAX_MEMORY_MB = 700
_SIDE_PX = 96


def try_file(path: Path) -> str:
    """Read a file in every way there is; return "read" or "refused".

    Raises:
        AssertionError: an error that does not name the file.
        Exception: any other error than that of a bad image.
    """
    from tcm_d2.data.images import BadImageError, read_head, read_image
    from tcm_d2.inference.rasters import open_scene

    def overview() -> None:
        with open_scene(path, value_range=(0, 255)) as scene:
            height, width = scene.size_hw
            scene.read(0, 0, min(width, 256), min(height, 256))
            scene.read(max(0, width - 256), max(0, height - 256), width, height)
            if height * width < 2**26:
                scene.read_overview(64)

    outcome = "refused"
    for read in (
        lambda: read_head(path),
        lambda: read_image(path, channel_order="RGB"),
        overview,
    ):
        try:
            read()
            outcome = "read"
        except (BadImageError, FileNotFoundError) as error:
            assert path.name in str(error), f"does not name its file: {error}"
        except ValueError as error:
            assert "--bands" in str(error), repr(error)
    return outcome


def make_good_files(folder: Path) -> list[Path]:
    """Write one small file of every kind that is read here."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (_SIDE_PX, _SIDE_PX, 3), dtype=np.uint8)
    rgb[20:60, 10:70] = 99
    image = Image.fromarray(rgb)
    plain = {
        "a.png": {},
        "interlaced.png": {},
        "baseline.jpg": {"quality": 90},
        "progressive.jpg": {"progressive": True},
        "a.bmp": {},
        "a.webp": {},
        "raw.tif": {},
        "lzw.tif": {"compression": "tiff_lzw"},
        "deflate.tif": {"compression": "tiff_deflate"},
    }
    paths = []
    for name, options in plain.items():
        image.save(folder / name, **options)
        paths.append(folder / name)
    image.convert("P").save(folder / "palette.png")
    image.convert("LA").save(folder / "grey_alpha.tif")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 200).save(folder / "deep.png")
    paths += [folder / name for name in ("palette.png", "grey_alpha.tif", "deep.png")]
    try:
        import rasterio
    except ImportError:
        return paths
    profile = {"count": 3, "height": _SIDE_PX, "width": _SIDE_PX, "dtype": "uint8"}
    for name, driver, more in (
        ("tiled.tif", "GTiff", {"tiled": True, "blockxsize": 32, "blockysize": 32}),
        ("jpeg.tif", "GTiff", {"compress": "jpeg", "photometric": "ycbcr"}),
        ("zstd.tif", "GTiff", {"compress": "zstd", "bigtiff": "yes", "crs": "EPSG:32633"}),
        ("a.jp2", "JP2OpenJPEG", {}),
        ("a.img", "HFA", {}),
    ):
        with rasterio.open(folder / name, "w", driver=driver, **profile, **more) as file:
            file.write(rgb.transpose(2, 0, 1))
        paths.append(folder / name)
    return paths


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with some bytes changed, cut out, doubled, or its end lost."""
    data = bytearray(content)
    kind = int(rng.integers(0, 6))
    # Heads matter most.
    reach = len(data) if rng.random() < 0.4 else min(len(data), 300)
    where = int(rng.integers(0, reach))
    if kind == 0:
        data[where] = int(rng.integers(0, 256))
    elif kind == 1:
        for place in rng.integers(0, reach, int(rng.integers(1, 9))).tolist():
            data[place] ^= 1 << int(rng.integers(0, 8))
    elif kind == 2:
        data[where : where + 4] = rng.choice([0, 1, 0x7F, 0xFF], 4).astype(np.uint8).tobytes()
    elif kind == 3:
        del data[where : where + int(rng.integers(1, 40))]
    elif kind == 4:
        data[where:where] = data[where : where + int(rng.integers(1, 400))]
    else:
        del data[where:]
    return bytes(data)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_zeros(width: int, height: int) -> bytes:
    """Return a PNG of any size with black pixels: a thousandth of what it unpacks to."""
    num_bytes = height * (1 + width * 3)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    # Nothing in a block refers to those before it, so that it may stand there many times.
    block = packer.compress(b"\0" * 2**24) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(b"\0" * (num_bytes % 2**24)) + packer.flush()
    checksum = struct.pack(">HH", num_bytes % 65521, 1)
    data = b"\x78\xda" + block * (num_bytes // 2**24) + rest + checksum
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_head(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds one row of bytes."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def tiff_head(
    width: int, height: int, *, rows_per_strip: int | None = None, samples: int = 3
) -> bytes:
    """Return a TIFF of about 200 bytes that claims a size."""
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 2 if samples >= 3 else 1),
        (273, 4, 1, 8),
        (277, 3, 1, samples),
        (278, 4, 1, rows_per_strip or height),
        (279, 4, 1, 64),
    ]
    directory = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        directory += struct.pack("<HHI", tag, kind, count)
        directory += struct.pack(
            "<I" if kind == 4 else "<HH", *([value] if kind == 4 else [value, 0])
        )
    return b"II*\0" + struct.pack("<I", 8 + 64) + b"\0" * 64 + directory + b"\0" * 4


def jpeg_with_size(width: int, height: int) -> bytes:
    """Return a small JPEG whose head claims another size."""
    stream = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), 99, np.uint8)).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    start = content.index(b"\xff\xc0")
    content[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def make_taller(content: bytes, factor: int) -> bytes | None:
    """Return a file whose head claims ``factor`` times its rows; None for kinds not done here."""
    data = bytearray(content)
    if content.startswith(b"\x89PNG"):
        height = factor * int.from_bytes(content[20:24], "big")
        data[20:24] = struct.pack(">I", height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif content.startswith(b"\xff\xd8"):
        start = max(content.find(b"\xff\xc0\0\x11"), content.find(b"\xff\xc2\0\x11"))
        height = factor * int.from_bytes(content[start + 5 : start + 7], "big")
        data[start + 5 : start + 7] = struct.pack(">H", height)
    elif content.startswith(b"BM"):
        height = factor * int.from_bytes(content[22:26], "little")
        data[22:26] = struct.pack("<i", height)
    elif content.startswith(b"II*\0"):
        (start,) = struct.unpack_from("<I", content, 4)
        (num,) = struct.unpack_from("<H", content, start)
        for entry in range(start + 2, start + 2 + 12 * num, 12):
            tag, kind = struct.unpack_from("<HH", content, entry)
            if tag == 257:
                layout = "<H" if kind == 3 else "<I"
                (height,) = struct.unpack_from(layout, content, entry + 8)
                struct.pack_into(layout, data, entry + 8, factor * height)
    else:
        return None
    return bytes(data)


def measure(
    path: Path, read: Callable[[Path], Any] = try_file, *, max_seconds: float = MAX_SECONDS
) -> tuple[str, float, float]:
    """Return what became of a file in a child process, and its seconds and megabytes.

    The outcome is what ``read`` returned, "killed", "too slow", or the error.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_report, args=(theirs, read, path))
    started = time.monotonic()
    child.start()
    theirs.close()
    try:
        if not ours.poll(max_seconds):
            return "too slow", time.monotonic() - started, 0.0
        outcome, memory_mb = ours.recv()
    except EOFError:
        return "killed", time.monotonic() - started, 0.0
    finally:
        child.kill()
        child.join()
    return outcome, time.monotonic() - started, memory_mb


def _report(pipe: Any, read: Callable[[Path], Any], path: Path) -> None:
    before = _peak_mb()
    try:
        outcome = str(read(path))
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    pipe.send((outcome, _peak_mb() - before))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_campaign(
    folder: Path,
    *,
    seed: int,
    seconds: float,
    max_files: int,
    kept: Path,
    make_files: Callable[[Path], list[Path]] = make_good_files,
    read: Callable[[Path], str] = try_file,
) -> tuple[Counter[str], list[str], float, float]:
    """Read mutated files until the time is over.

    Args:
        folder: for the files.
        seed: of the mutations.
        seconds: that it may take.
        max_files: to try.
        kept: folder for files that did what they should not.
        make_files: writes one good file of every kind.
        read: returns "read" or "refused", or raises what should not happen.

    Returns:
        Counts by kind and outcome, what should not have happened, the largest seconds of a file and
        megabytes of a child.
    """
    good = make_files(folder)
    for path in good:
        assert read(path) == "read", path
    counts: Counter[str] = Counter()
    faults: list[str] = []
    slowest = largest = 0.0
    deadline = time.monotonic() + seconds
    number = 0
    while time.monotonic() < deadline and number < max_files:
        # A child for a few hundred files: its memory is that of the largest.
        paths = []
        for _ in range(min(200, max_files - number)):
            rng = np.random.default_rng((seed, number))
            source = good[number % len(good)]
            path = folder / f"mutated_{number % 200}{source.suffix}"
            path.write_bytes(mutate(source.read_bytes(), rng))
            paths.append(path)
            number += 1
        outcome, _, memory_mb = measure(
            folder, lambda _, paths=paths: _try_many(paths, read), max_seconds=10 * MAX_SECONDS
        )
        if "|" not in outcome:
            # One of them killed or stopped the child: one by one.
            for path in paths:
                outcome, took, memory_mb = measure(path, read)
                slowest, largest = max(slowest, took), max(largest, memory_mb)
                counts[
                    f"{path.suffix} {outcome if outcome in ('read', 'refused') else 'fault'}"
                ] += 1
                if outcome not in ("read", "refused"):
                    faults.append(f"{path.name}: {outcome}")
                    shutil.copy(path, kept / f"{len(faults)}_{path.name}")
            continue
        texts, took_text = outcome.rsplit("|", 1)
        slowest, largest = max(slowest, float(took_text)), max(largest, memory_mb)
        for path, text in zip(paths, texts.split("\n")):
            good_end = text in ("read", "refused")
            counts[f"{path.suffix} {text if good_end else 'fault'}"] += 1
            if not good_end:
                faults.append(f"{path.name}: {text}")
                shutil.copy(path, kept / f"{len(faults)}_{path.name}")
    return counts, faults, slowest, largest


def _try_many(paths: list[Path], read: Callable[[Path], str]) -> str:
    texts, slowest = [], 0.0
    for path in paths:
        started = time.monotonic()
        try:
            texts.append(read(path))
        except Exception as error:
            texts.append(f"{type(error).__name__}: {error}".replace("\n", " ")[:300])
        slowest = max(slowest, time.monotonic() - started)
    return "\n".join(texts) + f"|{slowest}"


def report_campaign(
    description: str | None,
    *,
    make_files: Callable[[Path], list[Path]] = make_good_files,
    read: Callable[[Path], str] = try_file,
) -> int:
    """Run a campaign for some minutes and print its table; return 1 for faults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "hostile_files")
    args = parser.parse_args()
    # Decoders write to the standard error of the process.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    args.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        counts, faults, slowest, largest = run_campaign(
            Path(folder),
            seed=args.seed,
            seconds=60 * args.minutes,
            max_files=10**9,
            kept=args.keep,
            make_files=make_files,
            read=read,
        )
    for key, count in sorted(counts.items()):
        print(f"{key}: {count}")
    print(f"{sum(counts.values())} files, slowest {slowest:.2f} s, largest {largest:.0f} MB")
    for fault in faults[:50]:
        print("FAULT", fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(report_campaign(__doc__))
