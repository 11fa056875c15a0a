from __future__ import annotations

import importlib.util
import re
import sys
import xml.etree.ElementTree as ET
from types import ModuleType

import pytest

from tests.conftest import REPO_DIR


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = REPO_DIR / "tools" / "draw_angles.py"
    spec = importlib.util.spec_from_file_location("draw_angles", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_drawing_in_the_docs_is_what_the_script_draws(tool: ModuleType) -> None:
    drawn = tool.draw()
    ET.fromstring(drawn)
    stored = (REPO_DIR / "docs" / "angles.svg").read_text()
    numbers = re.compile(r"-?\d+\.\d+")
    # The last digit of a sine may differ from one machine to the next.
    assert numbers.sub("#", stored) == numbers.sub("#", drawn)
    for first, second in zip(numbers.findall(stored), numbers.findall(drawn)):
        assert float(first) == pytest.approx(float(second), abs=0.011)


def test_numbers_in_the_table_of_the_docs(tool: ModuleType) -> None:
    """Every row of docs/angles.md's table is what the functions give."""
    import torch

    text = (REPO_DIR / "docs" / "angles.md").read_text()
    rows = re.findall(r"^\| (-?\d+) \| (.+?) \| (.+?) \| (.+?) \|$", text, flags=re.MULTILINE)
    assert len(rows) >= 4
    for angle_deg, *cells in rows:
        boxes = torch.tensor([[0.0, 0.0, 96.0, 44.0, float(angle_deg)]], dtype=torch.float64)
        for cell, convention in zip(cells, tool.CONVENTIONS[1:]):
            w, h, degrees = convention.to_degrees(boxes)
            assert cell == f"{w:.0f}, {h:.0f}, {degrees + 0.0:.0f}", (angle_deg, convention.name)
