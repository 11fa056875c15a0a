"""Builds the extension tcm_d2._C; all other facts about the package stand in pyproject.toml.

    pip install --no-build-isolation -e .     # compiles against the torch that is installed
    python setup.py build_ext --inplace       # compile again, only what changed
    python setup.py describe                  # say what would be compiled, and why
    TCM_D2_BUILD=none pip wheel --no-deps .   # py3-none-any: the plain-torch operators alone

CPU kernels are compiled wherever there is a C++ compiler, CUDA kernels where there is a CUDA
toolkit that matches torch: see tcm_d2/build_config.py for the switches.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def load_build_config():
    """Return tcm_d2/build_config.py as a module, without importing the package."""
    spec = importlib.util.spec_from_file_location(
        "tcm_d2_build_config", ROOT / "tcm_d2" / "build_config.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build_config = load_build_config()


def visible_capabilities():
    """Return the compute capability of each visible GPU."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]


def say(message, is_warning=False):
    print(f"tcm_d2: {'WARNING: ' if is_warning else ''}{message}", file=sys.stderr, flush=True)


def plan_build():
    """Return the keyword arguments for setup(): extension and build command, possibly none."""
    try:
        if not build_config.wants_kernels(os.environ):
            say(f"compiling nothing: {build_config.BUILD_SWITCH}=none")
            return {}
    except build_config.BuildConfigError as error:
        raise SystemExit(f"error: {error}") from error
    if build_config.find_compiler(os.environ) is None:
        if build_config.read_switch(os.environ) == "1":
            raise SystemExit(f"error: {build_config.SWITCH}=1, but no C++ compiler was found")
        say(
            "no C++ compiler found ($CXX, c++, g++, clang++): nothing is compiled and the slower "
            "plain-torch operators run instead. Install a compiler and reinstall for the kernels.",
            is_warning=True,
        )
        return {}
    try:
        import torch
    except ImportError as error:
        raise SystemExit(
            "error: torch cannot be imported, and the extension is compiled against it. Install "
            "torch and torchvision first, then: pip install --no-build-isolation -e ."
        ) from error
    try:
        switch = build_config.read_switch(os.environ)
        toolkits = build_config.find_toolkits(os.environ) if switch != "0" else []
        decision = build_config.decide_cuda(switch, toolkits, torch_cuda=torch.version.cuda)
    except build_config.BuildConfigError as error:
        raise SystemExit(f"error: {error}") from error
    return make_extension(decision)


def make_extension(decision):
    """Return the keyword arguments for setup() that compile the extension as decided."""
    os.environ.setdefault("MAX_JOBS", build_config.DEFAULT_MAX_JOBS)
    os.environ.setdefault("CXX", build_config.find_compiler(os.environ))
    if decision.toolkit is not None:
        os.environ["CUDA_HOME"] = str(decision.toolkit.path)
        os.environ["TORCH_CUDA_ARCH_LIST"] = build_config.choose_architectures(
            os.environ, visible_capabilities
        )
        say(
            f"compiling CPU and CUDA kernels for {os.environ['TORCH_CUDA_ARCH_LIST']} with the "
            f"{decision.reason}"
        )
    else:
        say(f"compiling CPU kernels only: {decision.reason}", is_warning=decision.is_warning)

    from torch.utils import cpp_extension

    use_cuda = decision.toolkit is not None
    if use_cuda:  # read at import, and an earlier import may have read something else
        cpp_extension.CUDA_HOME = str(decision.toolkit.path)
    csrc = ROOT / "tcm_d2" / "csrc"
    sources = sorted([*csrc.rglob("*.cpp"), *(csrc.rglob("*.cu") if use_cuda else ())])
    # at::parallel_for is a header template: compiled without OpenMP it runs on one thread.
    # Apple's compiler has no such flag.
    openmp = ["-fopenmp"] if sys.platform.startswith("linux") else []
    make = cpp_extension.CUDAExtension if use_cuda else cpp_extension.CppExtension
    extension = make(
        "tcm_d2._C",
        sources=[path.relative_to(ROOT).as_posix() for path in sources],
        depends=[path.relative_to(ROOT).as_posix() for path in sorted(csrc.rglob("*.h"))],
        # -g0 undoes the -g of Python's own flags: 16 s instead of 39 s per C++ source.
        # Without fused multiply-adds every processor and GPU gives the same bits. The notes of
        # psabi are on vectors that never leave the functions they are inlined into.
        define_macros=[("TCM_D2_WITH_CUDA", None)] if use_cuda else [],
        extra_compile_args={"cxx": ["-O3", "-g0", "-ffp-contract=off", "-Wno-psabi", *openmp]}
        | ({"nvcc": ["-O3", "--fmad=false"]} if use_cuda else {}),
        extra_link_args=openmp,
    )

    class BuildExtension(cpp_extension.BuildExtension):
        def build_extensions(self):
            # a folder that stays, so that ninja compiles only what changed
            self.build_temp = str(ROOT / "build" / "temp")
            try:
                super().build_extensions()
            except Exception as error:
                advice = "see the compiler's message above"
                if use_cuda:
                    advice += f"; {build_config.SWITCH}=0 compiles without the CUDA kernels"
                raise RuntimeError(f"tcm_d2._C could not be compiled; {advice}") from error

    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildExtension}}


class Describe(Command):
    """The plan is printed while setup() is prepared; there is nothing left to do."""

    description = "say what would be compiled, and why"
    user_options = []

    def initialize_options(self):
        pass

    def finalize_options(self):
        pass

    def run(self):
        pass


class BuildPy(build_py):
    """Put the configurations into the package, where tcm_d2.model_zoo looks for them."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "tcm_d2" / "configs"
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / "configs", target, ignore=skipped)


plan = plan_build()
setup(
    ext_modules=plan.get("ext_modules", []),
    cmdclass={**plan.get("cmdclass", {}), "build_py": BuildPy, "describe": Describe},
)
