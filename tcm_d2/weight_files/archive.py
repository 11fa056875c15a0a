"""Check a zip archive of torch's before anything in it is used.

torch reads the records of its archives without looking at their checksums, so that damaged bytes
would become wrong weights, or NaN, without a word.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

# torch stores its records as they are; weights that others have deflated shrink by a few per cent.
# More than this and more than that many times the file is a bomb.
MAX_FREE_BYTES = 256 * 2**20
MAX_RATIO = 20
_CHUNK_BYTES = 2**20
# Among a record's attributes, as DOS had it.
_IS_FOLDER = 0x10


def is_archive(path: Path) -> bool:
    """Return whether a file ends as a zip archive does; never raises for a damaged one."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def check_archive(path: Path) -> None:
    """Read every record of a zip archive against its checksum, in bounded memory.

    Archives that torch was told to write without checksums (all of them are 0) pass.

    Raises:
        zipfile.BadZipFile: damaged, with two records of one name, or unpacking to far more than
            the file has.
        Exception: nearly any other; a broken archive can raise what it likes.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        names = {record.filename for record in records}
        if len(names) < len(records):
            raise zipfile.BadZipFile("two records of one name")
        unpacked, size = sum(record.file_size for record in records), path.stat().st_size
        if unpacked > max(MAX_FREE_BYTES, MAX_RATIO * size):
            raise zipfile.BadZipFile(f"would unpack to {unpacked:,} bytes, which no weights do")
        # torch reads nothing there, and leaves the memory as it is.
        if any(record.file_size and record.external_attr & _IS_FOLDER for record in records):
            raise zipfile.BadZipFile("a record with content is marked as a folder")
        if not any(record.CRC for record in records):
            return
        for record in records:
            with archive.open(record) as stream:
                while stream.read(_CHUNK_BYTES):
                    pass
