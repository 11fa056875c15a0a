"""Where the configurations of ``configs/`` lie, in an installed package and in a checkout."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from tcm_d2.messages import near_match_hint

logger = logging.getLogger(__name__)

_PACKAGE_DIR = Path(__file__).resolve().parent
_FOLDERS = (_PACKAGE_DIR / "configs", _PACKAGE_DIR.parent / "configs")


def list_config_names() -> list[str]:
    """Return the names of all, like "tcm_fcos.yaml" or "lazy/tcm_fcos.py"."""
    folder = config_folder()
    found = [*folder.glob("*.yaml"), *folder.glob("lazy/*.py")]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def find_config(name: str) -> Path:
    """Return the file of a name of `list_config_names`.

    Raises:
        ValueError: for an unknown name; near matches are named.
    """
    names = list_config_names()
    if name not in names:
        raise ValueError(
            f"unknown configuration {name!r}{near_match_hint(name, names)}; `tcm-d2 zoo` lists all "
            f"{len(names)}"
        )
    return config_folder() / name


def locate_config(path: str | os.PathLike[str]) -> Path:
    """Return the path of a configuration: the file itself, or the packaged one of that name.

    A warning says where a packaged one is taken. ``configs/`` in front of its name may stand. A
    path that is neither comes back as it is, for a message on what is missing.
    """
    given = Path(path).expanduser()
    if given.exists() or given.is_absolute():
        return given
    name = given.as_posix().removeprefix("configs/")
    if name not in list_config_names():
        return given
    found = config_folder() / name
    logger.warning("configuration '%s': no such file here, taking %s", given, found)
    return found


def config_folder() -> Path:
    """Return the folder that holds them.

    Raises:
        ValueError: there is none.
    """
    for folder in _FOLDERS:
        if folder.is_dir():
            return folder
    raise ValueError(f"no folder with configurations at {' or '.join(map(str, _FOLDERS))}")
