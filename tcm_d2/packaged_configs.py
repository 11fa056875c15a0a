"""Where the configurations of ``configs/`` lie, in an installed package and in a checkout."""

from __future__ import annotations

from pathlib import Path

from tcm_d2.messages import near_match_hint

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


def config_folder() -> Path:
    """Return the folder that holds them.

    Raises:
        ValueError: there is none.
    """
    for folder in _FOLDERS:
        if folder.is_dir():
            return folder
    raise ValueError(f"no folder with configurations at {' or '.join(map(str, _FOLDERS))}")
