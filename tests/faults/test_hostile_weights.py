"""Weight files of strangers: one clear error, no hang, no burst, no damaged number believed."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tcm_d2.weight_files.reading import read_weight_file
from tests.faults.hostile_rasters import MAX_MEMORY_MB, measure, run_campaign
from tests.faults.hostile_weights import make_good_files, try_file


def test_mutated_files_of_every_form_end_in_one_error(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    counts, faults, _, memory_mb = run_campaign(
        tmp_path,
        seed=17,
        seconds=20,
        max_files=600,
        kept=kept,
        make_files=make_good_files,
        read=try_file,
    )
    assert not faults and memory_mb < MAX_MEMORY_MB
    assert sum(counts.values()) > 100


def test_bytes_of_ones_in_the_middle_are_not_believed(tmp_path: Path) -> None:
    """torch.load does not look at the checksums: 64 bytes of 0xff became NaN."""
    path = tmp_path / "w.pth"
    torch.save({"model": {"weight": torch.ones(1000)}}, path)
    content = bytearray(path.read_bytes())
    content[2000:2064] = b"\xff" * 64
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["model"]["weight"].isnan().any()
    with pytest.raises(ValueError, match=r"damaged.*Bad CRC-32"):
        read_weight_file(path)


def test_a_record_marked_as_a_folder_is_refused(tmp_path: Path) -> None:
    """torch took it for empty, and the tensor had whatever was in memory."""
    path = tmp_path / "w.pth"
    torch.save({"head.weight": torch.ones(8)}, path)
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"/data/0", 0, content.rfind(b"PK\x05\x06"))
    start = content.rfind(b"PK\x01\x02", 0, entry)
    content[start + 38] |= 0x10  # of the external attributes
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pth'.*marked as a folder"):
        read_weight_file(path)


def test_archive_written_without_checksums_is_read(tmp_path: Path) -> None:
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this torch always writes checksums")
    path = tmp_path / "w.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": {"weight": torch.ones(10)}}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_weight_file(path).tensors["weight"], torch.ones(10))


def _deflated_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", pickle.dumps({}, 2))
        with archive.open("w/data/0", "w", force_zip64=True) as record:
            for _ in range(300):
                record.write(b"\0" * 2**20)


def _record_names_twice(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({}, 2))
        archive.writestr("w/data.pkl", pickle.dumps({}, 2))


def _dict_in_itself(path: Path) -> None:
    content: dict[str, object] = {}
    content["model"] = content
    torch.save(content, path)


def _huge_memo_number(path: Path) -> None:
    """Room for 2**32 objects was made, 32 GB: found by five damaged bytes of an old file."""
    start = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
    path.write_bytes(start + b"\x80\x02}r" + struct.pack("<I", 2**31) + b"cx\ny\n.")


@pytest.mark.parametrize(
    "make", [_deflated_bomb, _record_names_twice, _dict_in_itself, _huge_memo_number]
)
def test_hostile_archives_are_refused_soon(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "w.pth"
    make(path)
    outcome, seconds, memory_mb = measure(path, try_file)
    assert outcome == "refused" and seconds < 10 and memory_mb < 100


def test_pipe_and_device_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pth")
    for path in (tmp_path / "w.pth", Path("/dev/zero")):
        with pytest.raises((ValueError, FileNotFoundError), match="expected a file, got a pipe"):
            read_weight_file(path)
