"""Files: written whole or not at all, and names out of files that stay in their folder."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from types import ModuleType
from typing import IO

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

logger = logging.getLogger(__name__)

# In a folder while a process writes there.
LOCK_NAME = ".tcm_d2_lock"

# What Linux, macOS and Windows take as one part of a path, and what Linux takes as a path.
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096
# Control characters, halves of surrogate pairs, line and paragraph separators.
_UNPRINTABLE_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
_TEMPORARY_SUFFIX = ".tmp"
_SHOWN_CHARACTERS = 80


class FolderInUseError(ValueError):
    """Another process writes into the folder."""


class UnsafeNameError(ValueError):
    """A name from a file that would lead out of its folder or that no system can hold."""


def write_atomically(
    path: str | os.PathLike[str], write: Callable[[IO[bytes]], object], *, sync: bool = True
) -> None:
    """Write a file through ``write``; readers see the old file or the whole new one.

    The folder is made where it is missing. A failed ``write`` leaves the old file and nothing else.

    Args:
        sync: wait until the disk has the bytes, so that a power cut cannot leave half of them;
            False for thousands of small files that the same command can write again.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_beside(target)
    # Opened like any new file, so that the system applies the user's umask; never someone else's.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content`` as `write_atomically` does, without waiting for the disk."""
    write_atomically(path, lambda stream: stream.write(content), sync=False)


def is_temporary(name: str) -> bool:
    """Return whether a file name is that of a file that `write_atomically` had not finished."""
    return name.startswith(".") and name.endswith(_TEMPORARY_SUFFIX)


@contextmanager
def locked_folder(folder: str | os.PathLike[str], *, what: str) -> Iterator[None]:
    """Keep other processes that ask the same out of a folder while the block runs.

    The system takes the lock away when the process ends, however it ends: none is ever stale. A
    file system or system without locks is used without.

    Args:
        folder: exists.
        what: its option, for the message.

    Raises:
        FolderInUseError: (a ValueError) another process has the lock; names it.
        OSError: the lock's file cannot be written.
    """
    path = Path(folder) / LOCK_NAME
    # Another process may take the file away between our opening and locking it.
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(handle, 200).decode("utf-8", "replace").strip()
            os.close(handle)
            raise FolderInUseError(
                f"{what} '{folder}': in use by {holder or 'another process'}; wait for it or name "
                "another folder"
            ) from None
        except OSError as error:  # network folders without locks
            logger.info("'%s' cannot be locked: %s", folder, error)
        if _is_file(handle, path):
            break
        os.close(handle)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def locked_output(folder: str | os.PathLike[str], *, what: str) -> Iterator[None]:
    """Make a folder and keep other writers out of it while the block runs; see `locked_folder`.

    Folders that were made and got nothing are removed again.

    Args:
        folder: made where missing.
        what: its option, for the message.

    Raises:
        FolderInUseError: (a ValueError) another process writes there.
        OSError: it cannot be made or written.
    """
    path = Path(folder)
    made = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        with locked_folder(path, what=what):
            yield
    finally:
        for one in made:
            with suppress(OSError):  # it got something
                one.rmdir()


def _is_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def checked_name(name: object, *, where: str = "name") -> str:
    """Return ``name`` when it can be the name of one file or folder, on any system.

    Args:
        where: what the name is and which file it comes from, for the message.

    Raises:
        UnsafeNameError: (a ValueError) not a text, empty, a dot name, with separators of either
            system, a drive, control characters or surrogates, or too long.
    """
    text = _checked_text(name, where)
    if "/" in text or "\\" in text:
        raise _unsafe(where, text, "a name without / and \\")
    _check_part(text, text, where)
    return text


def joined_path(
    folder: str | os.PathLike[str],
    name: object,
    *,
    where: str = "name",
    follow_links: bool = False,
) -> Path:
    """Return ``folder / name`` when that stays below the folder; for names that come out of files.

    Args:
        name: a relative path with "/", as ``images/P0001.png``.
        where: what the name is and which file it comes from, for the message.
        follow_links: True for files that are only read: symbolic links in the folder, which its
            owner made, may lead out of it. The folder itself may be a link in any case.

    Raises:
        UnsafeNameError: (a ValueError) for what `checked_name` refuses in a part, absolute paths,
            ``..``, and symbolic links out of the folder.
    """
    text = _checked_text(name, where)
    if "\\" in text:
        raise _unsafe(where, text, "/ between the parts, not \\")
    if text.startswith("/"):
        raise _unsafe(where, text, "a path relative to its folder")
    for part in text.split("/"):
        _check_part(part, text, where)
    path = Path(folder) / text
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise _unsafe(where, text, f"a path of at most {MAX_PATH_BYTES} bytes")
    if not follow_links:
        root, target = os.path.realpath(folder), os.path.realpath(path)
        if os.path.commonpath([root, target]) != root:
            raise _unsafe(where, text, f"a path in {folder}, not a symbolic link out of it")
    return path


def _checked_text(name: object, where: str) -> str:
    if not isinstance(name, str):
        raise UnsafeNameError(f"{where}: expected a file name, got {str(name)[:40]!r}")
    for character in name:
        if unicodedata.category(character) in _UNPRINTABLE_CATEGORIES:
            raise _unsafe(where, name, f"printable characters, not {character!a}")
    return name


def _check_part(part: str, text: str, where: str) -> None:
    if part in ("", ".", ".."):
        raise _unsafe(where, text, "a path that names a file (no '..', '.' or empty part)")
    if PureWindowsPath(part).drive:
        raise _unsafe(where, text, "a path without drive")
    if len(part.encode("utf-8")) > MAX_NAME_BYTES:
        raise _unsafe(where, text, f"names of at most {MAX_NAME_BYTES} bytes")


def _unsafe(where: str, text: str, expected: str) -> UnsafeNameError:
    shown = repr(text[:_SHOWN_CHARACTERS]) + ("..." if len(text) > _SHOWN_CHARACTERS else "")
    return UnsafeNameError(
        f"{where}: expected {expected}, got {shown}; correct the name in that file"
    )


def _temporary_beside(target: Path) -> Path:
    """Return a new hidden name in the same folder, which may be as long as a name can be."""
    end = f".{os.getpid()}.{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}"
    stem = os.fsencode(target.name)[: MAX_NAME_BYTES - len(end) - 1]
    return target.with_name(f".{stem.decode('utf-8', 'ignore')}{end}")


# Windows would turn line ends without it; other systems have no such flag.
_BINARY = getattr(os, "O_BINARY", 0)
