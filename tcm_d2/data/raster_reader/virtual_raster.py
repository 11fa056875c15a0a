"""GDAL's virtual rasters (``.vrt``): XML that names other files, which are looked at first."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tcm_d2.data.raster_reader.kinds import (
    NUM_HEAD_BYTES,
    VRT,
    BadImageError,
    inspect_file,
    open_regular,
)

# The list of a mosaic of 10,000 tiles has 5 MB.
_MAX_BYTES = 2**26
# Elements of plain mosaics and band stacks. What is not here computes (pixel functions, which may
# be Python code), warps, or opens files in ways of its own.
_ELEMENTS = frozenset(
    "VRTDataset SRS GeoTransform GCPList GCP Metadata MDI VRTRasterBand Description ColorInterp "
    "ColorTable Entry NoDataValue HideNoDataValue UnitType Offset Scale CategoryNames Category "
    "Histograms HistItem HistMin HistMax BucketCount IncludeOutOfRange Approximate HistCounts "
    "SimpleSource ComplexSource SourceFilename SourceBand SourceProperties SrcRect DstRect NODATA "
    "UseMaskBand ScaleOffset ScaleRatio ColorTableComponent LUT BlockXSize BlockYSize "
    "OverviewList MaskBand".split()
)


def check_virtual_raster(path: str) -> None:
    """Raise unless a virtual raster only puts together rasters that lie in or below its folder.

    Raises:
        BadImageError: (a ValueError) says which source or element is refused.
    """
    with open_regular(path) as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise _refused(path, f"has more than {_MAX_BYTES} bytes")
    if b"<!" in content.replace(b"<!--", b""):
        raise _refused(path, "has a document type or other declarations")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise _refused(path, f"is no XML that can be read ({error})") from None
    if root.tag != "VRTDataset":
        raise _refused(path, f"expected <VRTDataset>, got <{root.tag}>")
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    checked: set[str] = set()
    for element in root.iter():
        if element.tag not in _ELEMENTS or "subClass" in element.attrib:
            kind = element.get("subClass") or element.tag
            raise _refused(path, f"holds <{kind}>; plain mosaics (gdalbuildvrt) are read")
        if element.tag == "MDI" and element.get("key") == "OVERVIEW_FILE":
            raise _refused(path, "names a file of overviews")
        if element.tag == "SourceFilename":
            name = (element.text or "").strip()
            if name not in checked:
                _check_source(path, folder, name, element.get("relativeToVRT") == "1")
                checked.add(name)


def _check_source(path: str, folder: str, name: str, is_relative: bool) -> None:
    given = os.path.join(folder, name) if is_relative else os.path.abspath(name)
    source = os.path.realpath(given)
    if "\0" in name or not Path(source).is_relative_to(folder):
        raise _refused(path, f"source {name!r} lies outside of its folder")
    try:
        file = inspect_file(source)
        with open_regular(source) as stream:
            head = stream.read(NUM_HEAD_BYTES)
    except (FileNotFoundError, BadImageError) as error:
        raise _refused(path, f"source {name!r}: {error}") from None
    # GDAL looks for XML of its drivers up to the first null character, in files of any kind.
    if file.kind is VRT or b"<" in head.split(b"\0")[0]:
        raise _refused(path, f"source {name!r} is not a plain raster")


def _refused(path: str, reason: str) -> BadImageError:
    return BadImageError(
        f"{path}: this virtual raster is not opened: {reason}; make a plain file of it with "
        "gdal_translate"
    )
