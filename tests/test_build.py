"""What is compiled, decided on fake toolkits: no compiler, no CUDA, no torch is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tcm_d2 import build_config
from tcm_d2.build_config import BuildConfigError, Toolkit

REPO_DIR = Path(__file__).resolve().parents[1]


def make_toolkit(folder: Path, version: int = 13000) -> Path:
    """Lay out what a toolkit is recognised by; `version` as in cuda.h, 13000 for 13.0."""
    for name in ("bin", "nvvm", "include"):
        (folder / name).mkdir(parents=True)
    make_program(folder / "bin" / "nvcc")
    (folder / "include" / "cuda.h").write_text(f"#define CUDA_VERSION {version}\n")
    return folder


def make_program(path: Path, text: str = "#!/bin/sh\nexit 0\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def find(environment: dict[str, str], system_root: Path) -> list[Toolkit]:
    return build_config.find_toolkits({"PATH": "", **environment}, system_root=system_root)


@pytest.mark.parametrize("value", ["auto", "0", "1"])
def test_switch_values(value: str) -> None:
    assert build_config.read_switch({"TCM_D2_CUDA": value}) == value


def test_switch_defaults_to_auto_and_refuses_others() -> None:
    assert build_config.read_switch({}) == "auto"
    assert build_config.read_switch({"TCM_D2_CUDA": " "}) == "auto"
    with pytest.raises(BuildConfigError, match=r"TCM_D2_CUDA: expected auto, 0 or 1, got 'yes'"):
        build_config.read_switch({"TCM_D2_CUDA": "yes"})


@pytest.mark.parametrize(("number", "version"), [(13000, (13, 0)), (12040, (12, 4))])
def test_toolkit_version_comes_from_its_header(
    tmp_path: Path, number: int, version: tuple[int, int]
) -> None:
    toolkit = build_config.read_toolkit(make_toolkit(tmp_path / "cuda", number))
    assert toolkit is not None
    assert toolkit.version == version


@pytest.mark.parametrize("missing", ["bin/nvcc", "nvvm", "include/cuda.h"])
def test_half_a_toolkit_is_none(tmp_path: Path, missing: str) -> None:
    folder = make_toolkit(tmp_path / "cuda")
    path = folder / missing
    path.rmdir() if path.is_dir() else path.unlink()
    assert build_config.read_toolkit(folder) is None


def test_nvcc_as_a_wrapper_script_leads_to_the_toolkit_it_starts(tmp_path: Path) -> None:
    real = make_toolkit(tmp_path / "opt" / "somewhere")
    make_program(real / "bin" / "nvcc", f"#!/bin/sh\necho '#$ TOP={real}/bin/..' >&2\n")
    wrapper = make_program(
        tmp_path / "usr" / "bin" / "nvcc", f'#!/bin/sh\nexec {real}/bin/nvcc "$@"\n'
    )
    found = find({"PATH": str(wrapper.parent)}, tmp_path / "nothing")
    assert [toolkit.path for toolkit in found] == [real.resolve()]


def test_nvcc_as_a_link_leads_to_its_toolkit(tmp_path: Path) -> None:
    real = make_toolkit(tmp_path / "opt" / "cuda")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").symlink_to(real / "bin" / "nvcc")
    found = find({"PATH": str(tmp_path / "bin")}, tmp_path / "nothing")
    assert [toolkit.path for toolkit in found] == [real.resolve()]


def test_toolkits_come_in_order_and_once(tmp_path: Path) -> None:
    own = make_toolkit(tmp_path / "own", 12010)
    old = make_toolkit(tmp_path / "root" / "cuda-12.8", 12080)
    new = make_toolkit(tmp_path / "root" / "cuda-13.0", 13000)
    (tmp_path / "root" / "cuda").symlink_to(old)
    found = find({"CUDA_HOME": str(own)}, tmp_path / "root")
    assert [toolkit.path for toolkit in found] == [own.resolve(), old.resolve(), new.resolve()]


def test_wrong_cuda_home_does_not_hide_a_toolkit(tmp_path: Path) -> None:
    real = make_toolkit(tmp_path / "root" / "cuda")
    found = find({"CUDA_HOME": str(tmp_path / "typo")}, tmp_path / "root")
    assert [toolkit.path for toolkit in found] == [real.resolve()]


T12 = Toolkit(Path("/t/12"), (12, 4))
T13 = Toolkit(Path("/t/13"), (13, 0))


@pytest.mark.parametrize("switch", ["auto", "1"])
def test_first_toolkit_of_torchs_major_version_is_taken(switch: str) -> None:
    decision = build_config.decide_cuda(switch, [T12, T13], torch_cuda="13.2")
    assert decision.toolkit == T13
    assert not decision.is_warning


def test_zero_compiles_no_cuda_even_with_a_toolkit() -> None:
    decision = build_config.decide_cuda("0", [T13], torch_cuda="13.0")
    assert decision.toolkit is None
    assert not decision.is_warning


@pytest.mark.parametrize(
    ("toolkits", "torch_cuda", "says", "is_warning"),
    [
        ([], "13.0", "no CUDA toolkit found", False),
        ([T12], "13.0", "needs a toolkit 13.x; found: CUDA toolkit 12.4 in /t/12", True),
        ([T13], None, "this torch has no CUDA support", True),
        ([], None, "no CUDA toolkit found", False),
    ],
)
def test_without_a_matching_toolkit_auto_says_so_and_1_refuses(
    toolkits: list[Toolkit], torch_cuda: str | None, says: str, is_warning: bool
) -> None:
    decision = build_config.decide_cuda("auto", toolkits, torch_cuda=torch_cuda)
    assert decision.toolkit is None
    assert says in decision.reason
    assert decision.is_warning == is_warning
    with pytest.raises(BuildConfigError, match="TCM_D2_CUDA=1, but "):
        build_config.decide_cuda("1", toolkits, torch_cuda=torch_cuda)


def test_compiler_is_cxx_else_the_first_known_name(tmp_path: Path) -> None:
    assert build_config.find_compiler({"PATH": str(tmp_path)}) is None
    gxx = make_program(tmp_path / "g++")
    own = make_program(tmp_path / "own-c++")
    assert build_config.find_compiler({"PATH": str(tmp_path)}) == str(gxx)
    environment = {"PATH": str(tmp_path), "CXX": "own-c++ -fsomething"}
    assert build_config.find_compiler(environment) == str(own)
    assert build_config.find_compiler({**environment, "CXX": "absent"}) is None


def test_architectures_are_the_users_else_the_visible_gpus_else_one() -> None:
    def two_gpus() -> list[tuple[int, int]]:
        return [(9, 0), (8, 6), (9, 0)]

    choose = build_config.choose_architectures
    assert choose({"TORCH_CUDA_ARCH_LIST": "7.5"}, two_gpus) == "7.5"
    assert choose({}, two_gpus) == "8.6;9.0+PTX"
    assert choose({}, list) == build_config.DEFAULT_ARCHITECTURES


def run_setup(tmp_path: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `setup.py describe` with an empty PATH folder, so that no compiler is found."""
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "describe"],
        cwd=REPO_DIR,
        env={"PATH": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_setup_without_a_compiler_warns_and_compiles_nothing(tmp_path: Path) -> None:
    result = run_setup(tmp_path, {})
    assert result.returncode == 0, result.stderr
    assert "WARNING: no C++ compiler found" in result.stderr
    assert "plain-torch operators run instead" in result.stderr


def test_setup_without_a_compiler_refuses_1(tmp_path: Path) -> None:
    result = run_setup(tmp_path, {"TCM_D2_CUDA": "1"})
    assert result.returncode != 0
    assert "TCM_D2_CUDA=1, but no C++ compiler was found" in result.stderr


def test_setup_compiles_nothing_where_that_is_asked(tmp_path: Path) -> None:
    result = run_setup(tmp_path, {"TCM_D2_BUILD": "none"})
    assert result.returncode == 0 and "compiling nothing: TCM_D2_BUILD=none" in result.stderr
    result = run_setup(tmp_path, {"TCM_D2_BUILD": "0"})
    assert result.returncode != 0
    assert "TCM_D2_BUILD: expected auto or none, got '0'" in result.stderr
