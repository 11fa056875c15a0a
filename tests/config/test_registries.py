"""Parts by name, and the user's own files that register them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tcm_d2.config.registries import PART_REGISTRY, import_user_part, registered_targets

PART = """
from tcm_d2.config.registries import PART_REGISTRY

@PART_REGISTRY.register()
class {name}:
    pass
"""


@pytest.fixture(autouse=True)
def same_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_a_file_of_the_user_registers_its_part_once(tmp_path: Path) -> None:
    path = tmp_path / "part_of_a_user.py"
    path.write_text(PART.format(name="PartOfAUser"))
    module = import_user_part(path)
    assert import_user_part(path) is module
    assert import_user_part("part_of_a_user") is module
    assert PART_REGISTRY.get("PartOfAUser") is module.PartOfAUser
    assert registered_targets()["part_of_a_user.PartOfAUser"] is module.PartOfAUser


def test_a_file_named_as_another_module_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pathlib.py"
    path.write_text("")
    with pytest.raises(ValueError, match="another module is named 'pathlib'"):
        import_user_part(path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.py: no such file"):
        import_user_part(tmp_path / "missing.py")
    with pytest.raises(ValueError, match=r"no_such_package\.head: no such module"):
        import_user_part("no_such_package.head")


def test_an_error_inside_the_module_of_a_user_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "part_that_fails.py"
    path.write_text("import no_such_package")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        import_user_part(path)
