"""Weights on the Hugging Face Hub by one name: ``hf://owner/name@revision/file#sha256=...``.

The cache of huggingface_hub is looked into first. Only where TCM_D2_HUB is 1 is anything
downloaded, and a file is used only if its SHA-256 is the one in its name.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

PREFIX = "hf://"
# "1" allows a download.
SWITCH = "TCM_D2_HUB"
_BLOCK_BYTES = 1 << 20
_FORM = "hf://owner/name@revision/file.safetensors#sha256=<64 hex digits>"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PATTERN = re.compile(
    rf"hf://(?P<repo>{_NAME}/{_NAME})@(?P<revision>[A-Za-z0-9][\w.-]*)/"
    rf"(?P<file>{_NAME}(?:/{_NAME})*)(?:#sha256=(?P<sha256>[0-9a-fA-F]{{64}}))?"
)


class HubFile(NamedTuple):
    """One file of a repository, at a revision, with the checksum of its content."""

    repo: str
    revision: str
    file: str
    sha256: str


def local_weights(source: str | os.PathLike[str]) -> str:
    """Return the local file that a source of weights means; all but ``hf://`` as it is.

    Raises:
        FileNotFoundError: it is not in the cache and may not, or cannot, be downloaded.
        ModuleNotFoundError: huggingface_hub is not installed.
        ValueError: a name of another form, or a content with another checksum.
    """
    text = os.fspath(source)
    return os.fspath(_fetch(parse_name(text), text)) if text.startswith(PREFIX) else text


def parse_name(text: str) -> HubFile:
    """Return the parts of a name.

    Raises:
        ValueError: it has another form, or no checksum.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"weights '{text}': expected {_FORM}")
    if match["sha256"] is None:
        raise ValueError(
            f"weights '{text}': expected the SHA-256 of the file behind it ({_FORM}); the file's "
            "page on the Hub shows it, and sha256sum prints it"
        )
    return HubFile(match["repo"], match["revision"], match["file"], match["sha256"].lower())


def _fetch(name: HubFile, text: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"weights '{text}': {error}; pip install huggingface_hub", name=error.name
        ) from error
    where: dict[str, Any] = {"repo_id": name.repo, "filename": name.file, "revision": name.revision}
    try:
        path = Path(hf_hub_download(**where, local_files_only=True))
    except OSError:
        path = Path(_download(hf_hub_download, where, text))
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    found = digest.hexdigest()
    if found != name.sha256:
        raise ValueError(
            f"weights '{text}': the file has the SHA-256 {found}, not the one in its name; it is "
            f"another version or damaged, and is not used ({path})"
        )
    return path


def _download(hf_hub_download: Callable[..., object], where: dict[str, Any], text: str) -> str:
    if os.environ.get(SWITCH) != "1":
        raise FileNotFoundError(
            f"weights '{text}': not in the cache of huggingface_hub, and nothing is downloaded "
            f"unless {SWITCH}=1 is set"
        )
    logger.warning("downloading %s from the Hugging Face Hub (%s=1)", text, SWITCH)
    try:
        return str(hf_hub_download(**where))
    except OSError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(f"weights '{text}': could not be downloaded: {reason}") from error
