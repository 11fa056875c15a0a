"""Atomic writing, and names out of files that may not leave their folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tcm_d2.files import (
    UnsafeNameError,
    checked_name,
    is_temporary,
    joined_path,
    write_atomically,
    write_bytes_atomically,
)


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    """A full disk or a kill in the middle of writing: the old file stays whole."""
    path = tmp_path / "model_final.pth"
    write_atomically(path, lambda stream: stream.write(b"old"))

    def write_half(stream: Any) -> None:
        stream.write(b"ne")
        assert [is_temporary(name) for name in sorted(os.listdir(tmp_path))] == [True, False]
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, write_half)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model_final.pth"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_get_the_mode_of_the_umask_at_the_time_of_writing(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_bytes_atomically(tmp_path / "new" / "a.txt", b"text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "a.txt").stat().st_mode) == 0o666 & ~umask


def test_the_longest_possible_name_can_be_written(tmp_path: Path) -> None:
    for name in ("a" * 255, "\u00e9" * 127):
        write_bytes_atomically(tmp_path / name, b"text")
        assert (tmp_path / name).read_bytes() == b"text"


UNSAFE = [
    "", ".", "..", "../a", "a/../../b", "a/./b", "a//b", "/etc/passwd", "a/", "C:a", "c:/a",
    "a\\b", "..\\a", "a\0b", "a\nb", "a\x7f", "a\x85b", "a\u2028b", "\ud800", "a" * 256,
    "\u00e9" * 128, "/".join(["a" * 200] * 30), 7, None, ["a"], {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE, ids=lambda name: ascii(name)[:30])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: object) -> None:
    for check in (checked_name, lambda text, where: joined_path(tmp_path, text, where=where)):
        with pytest.raises(UnsafeNameError, match=r"^m\.jsonl:3: file_name: expected ") as error:
            check(name, where="m.jsonl:3: file_name")
        assert len(str(error.value)) < 250 and str(error.value).isprintable()


@pytest.mark.parametrize(
    "name", ["P0001.png", "my image (1).png", "\u6e2f\u53e3 1.v2.png", "a" * 255, "...", "a..b"]
)
def test_ordinary_names_stay_as_they_are(tmp_path: Path, name: str) -> None:
    assert checked_name(name) == name
    assert joined_path(tmp_path, name) == tmp_path / name
    assert joined_path(tmp_path, f"images/{name}") == tmp_path / "images" / name
    with pytest.raises(UnsafeNameError, match=r"expected a name without / and"):
        checked_name(f"images/{name}")


def test_links_out_of_the_folder_are_refused_unless_they_may_be_read(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "a.png").write_bytes(b"")
    (inside / "link").symlink_to(outside)
    (inside / "a.png").symlink_to(outside / "a.png")
    (inside / "same").symlink_to(inside)
    for name in ("link/a.png", "a.png", "link"):
        with pytest.raises(UnsafeNameError, match="not a symbolic link out of it"):
            joined_path(inside, name)
        assert joined_path(inside, name, follow_links=True) == inside / name
    assert joined_path(inside, "same/b.png") == inside / "same" / "b.png"
    (tmp_path / "alias").symlink_to(inside)
    assert joined_path(tmp_path / "alias", "b.png") == tmp_path / "alias" / "b.png"
