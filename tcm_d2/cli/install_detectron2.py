"""The command tcm-d2 install-detectron2; the standard library only.

It runs before anything else is installed; see tcm_d2/cli/options/install_detectron2.py.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

from tcm_d2.cli.detectron2_edits import EditError, apply_edits, describe_edits, edits_digest

SOURCE_NAME = "pb1-detectron2"
SOURCE_VERSION = "0.6"
SOURCE_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"

# Tools for the one download, kept in a temporary folder. The source's setup.py needs a setuptools
# that still has pkg_resources. pip 26.3 refuses every distribution of the registry whose metadata
# names a direct URL, even in an optional extra and with --no-deps; this one does, in its extra
# "all". Nothing of that metadata is used here and no such URL is followed, so an older pip fetches
# the (hash-checked) file.
DOWNLOAD_TOOLS = ("pip==25.3", "setuptools==80.9.0", "wheel==0.45.1")

# What Detectron2 0.6 imports, without its outdated upper bounds, and without black, future and
# pydot, which only formatting and the Caffe2 export used.
REQUIREMENTS = (
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
    "packaging",
)

# Upstream leaves the choice of the OpenCV distribution to the user; so does this, where cv2 exists.
OPENCV = "opencv-python-headless"

# In the wheel's dist-info folder: the digest of the edits, then one line for each.
EDITS_FILE = "TCM_D2_EDITS"

# Folders of the source that upstream's own setup.py packs under detectron2.projects.
PROJECTS = {
    "point_rend": "PointRend/point_rend",
    "deeplab": "DeepLab/deeplab",
    "panoptic_deeplab": "Panoptic-DeepLab/panoptic_deeplab",
}

SELF_CHECK = """
import importlib, os, tempfile, warnings
warnings.simplefilter("ignore")
for name in (
    "config", "engine", "data", "data.transforms", "evaluation", "checkpoint", "modeling",
    "model_zoo", "structures", "layers", "solver", "utils.visualizer", "utils.events",
    "utils.comm", "utils.collect_env", "projects",
):
    importlib.import_module("detectron2." + name)
import numpy as np
import torch
from omegaconf import OmegaConf
from detectron2 import model_zoo
from detectron2.config import LazyCall, LazyConfig, get_cfg, instantiate
from detectron2.data.transforms import ResizeTransform
from detectron2.structures import RotatedBoxes
from detectron2.utils.visualizer import Visualizer

get_cfg().merge_from_file(model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml"))
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "config.yaml")
    conv = LazyCall(torch.nn.Conv2d)(in_channels=3, out_channels=4, kernel_size=1)
    LazyConfig.save(OmegaConf.create({"layer": conv}, flags={"allow_objects": True}), path)
    instantiate(LazyConfig.load(path).layer)
image = np.zeros((32, 32, 3), dtype=np.uint8)
ResizeTransform(32, 32, 16, 16).apply_image(image)
Visualizer(image).draw_rotated_box_with_label((16, 16, 8, 4, 30.0)).get_image()
RotatedBoxes(torch.zeros(1, 5)).area()
"""


class InstallError(RuntimeError):
    """Something the user can act on; the message says what."""


class FoundDetectron2(NamedTuple):
    """A Detectron2 of this Python: `error` is empty when it can be imported.

    `own_digest` is the digest of the edits if this tool installed it, else empty.
    """

    version: str
    location: str
    error: str
    own_digest: str = ""


def say(message: str) -> None:
    print(f"[install_detectron2] {message}", flush=True)


def run_python(*arguments: str, extra_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run this Python with `arguments`, outside the source tree, and return output and status."""
    environment = dict(os.environ)
    if extra_path is not None:
        environment["PYTHONPATH"] = str(extra_path)
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=tempfile.gettempdir(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def run_pip(*arguments: str, what: str, extra_path: Path | None = None) -> None:
    """Run pip and raise InstallError, with the end of its output, when it fails."""
    result = run_python("-m", "pip", *arguments, extra_path=extra_path)
    if result.returncode:
        tail = "\n".join(result.stdout.strip().splitlines()[-25:])
        raise InstallError(f"{what} failed; the end of pip's output:\n{tail}")


def find_detectron2() -> FoundDetectron2 | None:
    """Return the Detectron2 this Python would import, or None when there is none."""
    code = (
        "import importlib.util as u, sys\n"
        "spec = u.find_spec('detectron2')\n"
        "if spec is None or spec.origin is None: sys.exit(3)\n"
        "print('@', spec.origin)\n"
        "import importlib.metadata as m\n"
        f"try: text = m.distribution('detectron2').read_text({EDITS_FILE!r}) or ''\n"
        "except m.PackageNotFoundError: text = ''\n"
        "print('@', text.partition('\\n')[0])\n"
        "import detectron2, detectron2.config, detectron2.engine, detectron2.structures\n"
        "print('@', detectron2.__version__)\n"
    )
    result = run_python("-c", code)
    if result.returncode == 3:
        return None
    facts = [line[2:] for line in result.stdout.splitlines() if line.startswith("@ ")]
    error = result.stdout.strip().splitlines()[-1] if result.returncode else ""
    location = str(Path(facts[0]).parent) if facts else "unknown place"
    facts += [""] * (3 - len(facts))
    return FoundDetectron2(facts[2] or "unknown version", location, error, facts[1])


def find_requirements() -> list[str]:
    """Return what pip is asked to install beside Detectron2."""
    has_cv2 = run_python("-c", "import cv2").returncode == 0
    return [*REQUIREMENTS] if has_cv2 else [*REQUIREMENTS, OPENCV]


def verify_sha256(path: Path, expected: str = SOURCE_SHA256) -> None:
    """Raise InstallError unless the file's SHA-256 is `expected`."""
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise InstallError(
            f"{path}: expected SHA-256 {expected}, got {actual}; the file is not the checked one "
            "and was not opened"
        )


def download_source(work_dir: Path) -> Path:
    """Download the source package through pip's hash-checking mode and return the file."""
    if run_python("-c", "import torch").returncode:
        raise InstallError(
            "torch cannot be imported, and the source package's metadata step needs it; install "
            "torch and torchvision first"
        )
    tools_dir, download_dir = work_dir / "pip", work_dir / "download"
    requirements = work_dir / "requirements.txt"
    requirements.write_text(f"{SOURCE_NAME}=={SOURCE_VERSION} --hash=sha256:{SOURCE_SHA256}\n")
    say(f"downloading {SOURCE_NAME} {SOURCE_VERSION} (0.5 MB), hash-checked ...")
    run_pip(
        *("install", "--no-deps", "--only-binary", ":all:", "--target", str(tools_dir)),
        *DOWNLOAD_TOOLS,
        what="fetching the tools for the download",
    )
    run_pip(
        *("download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"),
        *("--require-hashes", "-r", str(requirements), "-d", str(download_dir)),
        what=f"downloading {SOURCE_NAME}",
        extra_path=tools_dir,
    )
    files = list(download_dir.glob("*.tar.gz"))
    if len(files) != 1:
        raise InstallError(f"expected one downloaded .tar.gz, got {[f.name for f in files]}")
    return files[0]


def unpack_source(archive: Path, target_dir: Path) -> Path:
    """Unpack a verified source package below `target_dir` and return its root folder."""
    target_dir.mkdir(parents=True, exist_ok=True)
    root = target_dir.resolve()
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.isfile() or member.isdir()]
        for member in members:
            if not (root / member.name).resolve().is_relative_to(root):
                raise InstallError(f"{archive}: member {member.name!r} leaves the target folder")
        for member in members:
            tar.extract(member, target_dir)
    roots = [path for path in target_dir.iterdir() if (path / "detectron2").is_dir()]
    if len(roots) != 1:
        raise InstallError(f"{archive}: expected one folder that holds detectron2/")
    return roots[0]


def build_wheel(source_dir: Path, wheel_dir: Path) -> Path:
    """Pack the Python and YAML files of an edited source tree as the wheel `detectron2` 0.6."""
    for name, folder in PROJECTS.items():
        if (source_dir / "projects" / folder).is_dir():
            shutil.copytree(
                source_dir / "projects" / folder, source_dir / "detectron2/projects" / name
            )
    info = f"detectron2-{SOURCE_VERSION}.dist-info"
    requires = "".join(f"Requires-Dist: {requirement}\n" for requirement in REQUIREMENTS)
    files = {
        path.relative_to(source_dir).as_posix(): path.read_bytes()
        for path in sorted((source_dir / "detectron2").rglob("*"))
        if path.suffix in (".py", ".yaml")
    }
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: detectron2\nVersion: {SOURCE_VERSION}\n"
        "Summary: Detectron2 (Python files only), repackaged with compatibility edits\n"
        f"License: Apache-2.0\nRequires-Python: >=3.8\n{requires}\n"
        f"Repackaged from {SOURCE_NAME} {SOURCE_VERSION}, sha256 {SOURCE_SHA256}.\n"
        f"The edits are listed in {EDITS_FILE} beside this file.\n"
    ).encode()
    files[f"{info}/{EDITS_FILE}"] = f"{edits_digest()}\n{describe_edits()}\n".encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: tcm_d2\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    if (source_dir / "LICENSE").is_file():
        files[f"{info}/LICENSE"] = (source_dir / "LICENSE").read_bytes()
    record = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(content)}\n")
    record.append(f"{info}/RECORD,,\n")
    files[f"{info}/RECORD"] = "".join(record).encode()
    wheel_dir.mkdir(parents=True, exist_ok=True)
    wheel = wheel_dir / f"detectron2-{SOURCE_VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2021, 11, 15, 0, 0, 0)), content)
    return wheel


def self_check() -> None:
    """Import and try what tcm_d2 uses of Detectron2; raise InstallError when that fails."""
    result = run_python("-c", SELF_CHECK)
    if result.returncode:
        tail = "\n".join(result.stdout.strip().splitlines()[-12:])
        raise InstallError(f"the self-check of the installed Detectron2 failed:\n{tail}")


def install(*, sdist: Path | None, force: bool) -> None:
    """Install Detectron2 where missing (or always with `force`), then run the self-check."""
    found = find_detectron2()
    if found is not None and found.own_digest:
        if found.error or found.own_digest != edits_digest():
            why = found.error or "it was made with other edits"
            say(f"renewing the Detectron2 that this tool installed: {why}")
            force = True
    if found is not None and not force:
        if found.error:
            raise InstallError(
                f"a Detectron2 in {found.location} cannot be imported ({found.error}); repair it, "
                "or replace it with --force"
            )
        say(f"found Detectron2 {found.version} in {found.location}: left alone")
        return
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="detectron2_") as folder:
        work_dir = Path(folder)
        archive = sdist if sdist is not None else download_source(work_dir)
        verify_sha256(archive)
        source_dir = unpack_source(archive, work_dir / "source")
        apply_edits(source_dir)
        say("compatibility edits applied:\n  " + describe_edits().replace("\n", "\n  "))
        wheel = build_wheel(source_dir, work_dir / "wheel")
        say("installing its requirements ...")
        run_pip("install", *find_requirements(), what="installing Detectron2's requirements")
        run_pip(
            *("install", "--no-deps", "--no-index", "--force-reinstall", str(wheel)),
            what="installing the repackaged Detectron2",
        )
    say("self-check ...")
    self_check()
    say(f"Detectron2 {SOURCE_VERSION} installed in {time.monotonic() - start:.0f} s")


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    try:
        if args.list_edits:
            print(describe_edits())
        elif args.check:
            self_check()
            say("self-check passed")
        else:
            install(sdist=args.sdist, force=args.force)
    except (InstallError, EditError, OSError) as error:
        print(f"[install_detectron2] error: {error}", file=sys.stderr)
        return 1
    return 0
