"""Shared fixtures and the one table of tolerances."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tcm_d2.config.registries import REGISTRIES

REPO_DIR = Path(__file__).resolve().parents[1]
SHARED_DIR = REPO_DIR.parent / "shared"
DATA_DIR = REPO_DIR / "tests" / "data"

# The tensors here are small: a second thread costs more in waiting than it computes. Other numbers
# are for tools/check_processors.py, which shows that no test depends on the processor.
torch.set_num_threads(int(os.environ.get("TCM_D2_TEST_THREADS", "1")))

# (relative, absolute) by dtype, for values of order 1.
TOLERANCES = {torch.float32: (1e-4, 1e-5), torch.float64: (1e-9, 1e-11)}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _parts_of_tests_go_with_them() -> Iterator[None]:
    """Take out what a module of tests registers, so that no later configuration has its keys."""
    before = [{name for name, _ in registry} for registry in REGISTRIES]
    yield
    for registry, names in zip(REGISTRIES, before, strict=True):
        for name, part in list(registry):
            if name not in names and not part.__module__.startswith(("tcm_d2.", "detectron2.")):
                del registry._obj_map[name]


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder with the full golden arrays; skips where it is absent."""
    path = SHARED_DIR / "golden"
    if not path.is_dir():
        pytest.skip(f"golden arrays not found at {path}: only the small copies in tests/data run")
    return path


@pytest.fixture(scope="session")
def realdata_dir() -> Path:
    """Folder with the academic-use images; skips where it is absent."""
    path = SHARED_DIR / "realdata"
    if not path.is_dir():
        pytest.skip(f"real images (academic use only, never committed) not found at {path}")
    return path
