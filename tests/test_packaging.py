"""What pyproject.toml and CITATION.cff say is so; tools/check_packages.py tries the packages."""

from __future__ import annotations

import ast
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import tcm_d2
from tools import check_packages

REPO_DIR = Path(__file__).resolve().parents[1]
# Names of distributions that are imported under another one.
IMPORT_NAMES = {
    "pillow": "PIL",
    "opencv-python-headless": "cv2",
    "pyyaml": "yaml",
    "hydra-core": "hydra",
    "open-clip-torch": "open_clip",
}
# Installed by a command of its own; for those who have them, others are told what to install.
NOT_DECLARED = {"detectron2", "geopandas", "huggingface_hub", "supervision"}
# Needed through Detectron2's writer.
NOT_IMPORTED = {"tensorboard"}


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11 on
    tables = tomllib.loads((REPO_DIR / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, object] = tables["project"]
    return found


def import_names(requirements: list[str]) -> set[str]:
    names = [re.split(r"[<>=!~;\[ ]", text)[0].lower().replace("_", "-") for text in requirements]
    return {IMPORT_NAMES.get(name, name) for name in names}


def test_what_is_imported_is_declared_and_the_other_way_round(project: dict[str, object]) -> None:
    imported = set()
    for path in (REPO_DIR / "tcm_d2").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    imported -= {*sys.stdlib_module_names, "tcm_d2", *NOT_DECLARED}
    needed = import_names(project["dependencies"])  # type: ignore[arg-type]
    extras = project["optional-dependencies"]
    optional = import_names([r for name in extras for r in extras[name] if name != "dev"])  # type: ignore
    assert imported <= needed | optional
    assert needed <= imported | NOT_IMPORTED


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((REPO_DIR / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == tcm_d2.__version__
    assert citation["authors"] and len(citation["references"]) == 2


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(tcm_d2.__file__).parent / "py.typed").is_file()


def test_the_source_package_builds_and_its_wheel_holds_what_is_needed(tmp_path: Path) -> None:
    """The source package had no configurations, which setup.py copies: it could not be built."""
    source, wheel = check_packages.build_packages(tmp_path, compile_one=False)
    assert source.name.endswith(".tar.gz") and wheel.name.endswith("-py3-none-any.whl")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"configs/tcm_fcos.yaml", "tcm_d2/csrc/host.h", "tcm_d2/csrc/boxes/kernels.h"} <= names
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    ours = check_packages.run("git", "ls-files", "tcm_d2", cwd=REPO_DIR).split()
    assert {name for name in ours if not name.startswith("tcm_d2/csrc/")} <= packed
