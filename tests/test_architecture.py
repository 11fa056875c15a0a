"""The house rules that a program can check: floors, sizes, characters, unsafe calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO_DIR = Path(__file__).resolve().parents[1]
PACKAGE_DIR = REPO_DIR / "tcm_d2"

# Imports go to a lower floor or stay in the folder.
FLOORS = {
    "files": 0,
    "messages": 0,
    "command_line": 0,
    "packaged_configs": 0,
    "ops": 0,
    "weight_files": 0,
    "structures": 1,
    "layers": 1,
    "config": 2,
    "modeling": 3,
    "data": 3,
    "synthetic": 3,
    "visualize": 3,
    "evaluation": 4,
    "checkpoint": 4,
    "cpu": 4,
    "export": 4,
    "inference": 5,
    "report": 5,
    "serve": 6,
    # Above inference: evaluation can look at several views of an image, as inference does.
    "engine": 6,
    "cli": 8,
    "__main__": 9,
}
# Rooms of one floor that may see another one there.
NEIGHBOURS = {
    ("synthetic", "data"),
    ("weight_files", "messages"),
    ("packaged_configs", "messages"),
}
# Other modules directly below tcm_d2: nothing imports them but their own kind, commands and tools.
TOP_FLOOR = 7
# Inside modeling: who may import whom.
MODELING_MAY_IMPORT = {
    "clip": set(),
    "backbone": {"clip"},
    "tcm": set(),
    "neck": set(),
    "dense": set(),
    "losses": set(),
    "heads": {"dense", "losses"},
}
FREE_OF_DETECTRON2 = (
    "files",
    "messages",
    "command_line",
    "packaged_configs",
    "ops",
    "weight_files",
)
MAX_LINES = 450
FORBIDDEN_STEMS = {"utils", "misc", "common", "helpers"}

PACKAGE_FILES = sorted(PACKAGE_DIR.rglob("*.py"))
TOOL_FILES = sorted((REPO_DIR / "tools").glob("*.py"))
TEST_FILES = sorted((REPO_DIR / "tests").rglob("*.py"))
NATIVE_FILES = [p for s in ("h", "cpp", "cu") for p in sorted(PACKAGE_DIR.rglob(f"*.{s}"))]
CONFIG_FILES = sorted((REPO_DIR / "configs").rglob("*.yaml"))


def _id(path: Path) -> str:
    return str(path.relative_to(REPO_DIR))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_id(path)}:{node.lineno}: relative import"
            module = node.module or ""
            yield node.lineno, module
            # "from tcm_d2 import ops" names a folder too.
            if module == "tcm_d2":
                yield from ((node.lineno, f"tcm_d2.{alias.name}") for alias in node.names)


def _folder(dotted: str) -> str | None:
    """Return the folder of tcm_d2 that a dotted name lies in; "" for the top; None if elsewhere."""
    parts = dotted.split(".")
    if parts[0] != "tcm_d2":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else ""


def _room(path: Path) -> str:
    """Return the folder of tcm_d2, or the single module with a floor, that a file is; "" else."""
    parts = path.relative_to(PACKAGE_DIR).parts
    room = parts[0] if len(parts) > 1 else path.stem
    return room if len(parts) > 1 or room in FLOORS else ""


def test_every_folder_has_a_floor() -> None:
    folders = {p.parent.relative_to(PACKAGE_DIR).parts[0] for p in PACKAGE_DIR.glob("*/*.py")}
    assert folders <= FLOORS.keys()


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=_id)
def test_imports_go_down(path: Path) -> None:
    own = _room(path)
    own_floor = FLOORS.get(own, TOP_FLOOR)
    wrong = []
    for line, name in _imports(path):
        target = _folder(name)
        if target is None or target == own or (own, target) in NEIGHBOURS:
            continue
        if target == "" and name == "tcm_d2":
            continue
        if FLOORS.get(target, TOP_FLOOR) >= own_floor:
            wrong.append(f"{_id(path)}:{line}: {own or 'tcm_d2'} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "path", [p for p in PACKAGE_FILES if p.parent.parent.name == "modeling"], ids=_id
)
def test_parts_of_the_model_stay_apart(path: Path) -> None:
    own = path.parent.name
    allowed = MODELING_MAY_IMPORT[own] | {own}
    for line, name in _imports(path):
        if name.startswith("tcm_d2.modeling."):
            assert name.split(".")[2] in allowed, f"{_id(path)}:{line}: {own} imports {name}"


@pytest.mark.parametrize(
    "path", [p for p in PACKAGE_FILES if _room(p) in FREE_OF_DETECTRON2], ids=_id
)
def test_lower_floors_need_no_detectron2(path: Path) -> None:
    assert not [name for _, name in _imports(path) if name.split(".")[0] == "detectron2"]


@pytest.mark.parametrize(
    "path", [*PACKAGE_FILES, *TOOL_FILES, *TEST_FILES, *NATIVE_FILES, *CONFIG_FILES], ids=_id
)
def test_files_are_ascii_and_not_too_long(path: Path) -> None:
    text = path.read_bytes()
    bad = [n for n, line in enumerate(text.splitlines(), 1) if not line.isascii()]
    assert not bad, f"{_id(path)}: not ASCII in lines {bad[:5]}"
    num_lines = text.count(b"\n")
    assert num_lines <= MAX_LINES, f"{_id(path)}: {num_lines} lines, at most {MAX_LINES}"


def test_one_file_knows_of_the_cpu_annex() -> None:
    """Without the folder tcm_d2/cpu, and with that file's calls doing nothing, all else works."""
    outside = [p for p in PACKAGE_FILES + TOOL_FILES if p.parent.name != "cpu"]
    knowing = {_id(p) for p in outside if "tcm_d2.cpu" in p.read_text(encoding="utf-8")}
    assert knowing == {"tcm_d2/inference/speed.py"}


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=_id)
def test_names_say_what_a_file_is_for(path: Path) -> None:
    assert path.stem not in FORBIDDEN_STEMS


@pytest.mark.parametrize("path", PACKAGE_FILES + TOOL_FILES, ids=_id)
def test_nothing_runs_code_from_files(path: Path) -> None:
    """No eval, exec or unpickling; torch.load and the merging of YAML only in their safe form."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        where = f"{_id(path)}:{node.lineno}"
        called = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert called not in ("eval", "exec", "pickle.load", "pickle.loads"), where
        assert called not in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"), where
        if called == "torch.load":
            assert keywords.get("weights_only") == "True", where
        if called.endswith(".merge_from_file"):
            assert keywords.get("allow_unsafe") == "False", where


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=_id)
def test_the_package_logs_and_does_not_print(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    is_command_line = any(
        isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree.body
    )
    calls = [ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)]
    assert is_command_line or _room(path) == "cli" or "print" not in calls
