"""Compatibility edits for the registry's Detectron2 0.6 source, one row per edit.

The source is upstream's v0.6 tag without its C++ files (2021). Each row names a file, the exact
text it replaces, how often that text must occur, and why. `apply_edits` refuses a tree in which a
row does not apply exactly that often, so a changed source is noticed instead of half edited.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple


class SourceEdit(NamedTuple):
    """One replacement of `old` by `new` in `file`, expected to occur `times` times.

    Attributes:
        file: Path below the source root, with forward slashes.
        old: Exact text to replace.
        new: Its replacement.
        times: How many times `old` must occur.
        reason: What breaks without the edit.
    """

    file: str
    old: str
    new: str
    times: int
    reason: str


class NewFile(NamedTuple):
    """One file added below the source root."""

    file: str
    text: str
    reason: str


class EditError(RuntimeError):
    """The source tree is not the one the edits were written for."""


_NUMPY = "NumPy 1.24 removed the aliases of Python's own types"
_NO_C = "only the compiled extension has this module; import must work without it"

_IMPORT_C = "from detectron2 import _C\n"
_IMPORT_C_TOLERANT = """\
try:
    from detectron2 import _C
except ImportError:
    from detectron2._missing_extension import MissingExtension

    _C = MissingExtension()
"""

EDITS: tuple[SourceEdit, ...] = (
    SourceEdit(
        "detectron2/data/transforms/transform.py",
        "interp=Image.LINEAR,",
        "interp=Image.BILINEAR,",
        1,
        "Pillow 10 removed Image.LINEAR, an alias of Image.BILINEAR",
    ),
    SourceEdit(
        "detectron2/layers/mask_ops.py",
        "np.array(mask, copy=False)",
        "np.asarray(mask)",
        1,
        "NumPy 2 raises on copy=False where a copy is needed",
    ),
    SourceEdit("detectron2/data/build.py", "dtype=np.int", "dtype=int", 2, _NUMPY),
    SourceEdit("detectron2/data/datasets/pascal_voc.py", "np.str)", "str)", 1, _NUMPY),
    SourceEdit("detectron2/evaluation/pascal_voc_evaluation.py", "np.bool)", "bool)", 2, _NUMPY),
    SourceEdit("detectron2/evaluation/sem_seg_evaluation.py", "np.float)", "float)", 5, _NUMPY),
    SourceEdit("detectron2/evaluation/sem_seg_evaluation.py", "np.int)", "int)", 2, _NUMPY),
    SourceEdit("detectron2/structures/masks.py", "np.bool)", "bool)", 3, _NUMPY),
    SourceEdit("detectron2/utils/video_visualizer.py", "np.bool)", "bool)", 1, _NUMPY),
    SourceEdit("detectron2/utils/visualizer.py", "np.bool)", "bool)", 3, _NUMPY),
    SourceEdit(
        "detectron2/model_zoo/model_zoo.py",
        "import pkg_resources\n",
        "",
        1,
        "setuptools 82 removed pkg_resources",
    ),
    SourceEdit(
        "detectron2/model_zoo/model_zoo.py",
        "pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n'
        "    )",
        "os.path.join(\n"
        '        os.path.dirname(os.path.abspath(__file__)), "configs", config_path\n'
        "    )",
        1,
        "setuptools 82 removed pkg_resources",
    ),
    SourceEdit(
        "detectron2/config/lazy.py",
        "        import black\n\n        cfg = OmegaConf",
        "        try:\n"
        "            import black\n"
        "        except ImportError:\n"
        "            black = None\n\n"
        "        cfg = OmegaConf",
        1,
        "black is a formatter, not a run-time need; to_py works without it",
    ),
    SourceEdit(
        "detectron2/config/lazy.py",
        "        py_str = _to_str(cfg, prefix=[prefix])\n",
        "        py_str = _to_str(cfg, prefix=[prefix])\n"
        "        if black is None:\n"
        "            return py_str\n",
        1,
        "black is a formatter, not a run-time need; to_py works without it",
    ),
    SourceEdit("detectron2/layers/rotated_boxes.py", _IMPORT_C, _IMPORT_C_TOLERANT, 1, _NO_C),
    SourceEdit("detectron2/layers/deform_conv.py", _IMPORT_C, _IMPORT_C_TOLERANT, 1, _NO_C),
    SourceEdit("detectron2/layers/roi_align_rotated.py", _IMPORT_C, _IMPORT_C_TOLERANT, 1, _NO_C),
    SourceEdit(
        "detectron2/evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        "\n"
        "try:\n"
        "    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "except ImportError:\n"
        "    COCOeval_opt = COCOeval\n"
        "\n",
        1,
        "COCOeval_opt needs the compiled extension; pycocotools' own COCOeval gives the same AP",
    ),
    SourceEdit(
        "detectron2/layers/nms.py",
        "    return torch.ops.detectron2.nms_rotated(boxes, scores, iou_threshold)\n",
        "    ops = torch.ops.detectron2\n"
        "    if not torch.jit.is_scripting() and not hasattr(ops, 'nms_rotated'):\n"
        "        from detectron2._missing_extension import MissingExtension\n"
        "\n"
        "        MissingExtension().nms_rotated\n"
        "    return torch.ops.detectron2.nms_rotated(boxes, scores, iou_threshold)\n",
        1,
        "a clear error instead of a missing attribute of torch.ops",
    ),
)

NEW_FILES: tuple[NewFile, ...] = (
    NewFile(
        "detectron2/_missing_extension.py",
        '''\
"""Stand-in for the compiled `detectron2._C`, which this installation does not have."""

import torch


class MissingExtension:
    """Gives what torch.ops.detectron2 has (tcm_d2.ops adds two operators to it when imported).

    Any other attribute raises a RuntimeError that names the operator.
    """

    def __getattr__(self, name):
        if not name.startswith("_") and hasattr(torch.ops.detectron2, name):
            return getattr(torch.ops.detectron2, name)
        raise RuntimeError(
            f"detectron2._C.{name} is compiled code, and this Detectron2 was installed without "
            "it (by tcm_d2's tools/install_detectron2.py). For rotated boxes import tcm_d2.ops, "
            "which provides box_iou_rotated and nms_rotated here; for other compiled operators "
            "build Detectron2 from its upstream repository."
        )
''',
        "a clear error when a compiled operator is called",
    ),
)


def apply_edits(
    source_dir: Path,
    edits: tuple[SourceEdit, ...] = EDITS,
    *,
    new_files: tuple[NewFile, ...] = NEW_FILES,
) -> None:
    """Apply all edits below `source_dir`, or none: every row is checked first.

    Raises:
        EditError: A file is missing, a text does not occur as often as its row says, or a file to
            be added exists.
    """
    texts: dict[str, str] = {}
    problems = []
    for edit in edits:
        path = source_dir / edit.file
        if edit.file not in texts:
            if not path.is_file():
                problems.append(f"{edit.file}: file not found")
                continue
            texts[edit.file] = path.read_text(encoding="utf-8")
        found = texts[edit.file].count(edit.old)
        if found != edit.times:
            problems.append(
                f"{edit.file}: expected {edit.times} x {edit.old.strip()!r}, found {found}"
            )
        texts[edit.file] = texts[edit.file].replace(edit.old, edit.new)
    problems += [
        f"{new.file}: to be added, but exists"
        for new in new_files
        if (source_dir / new.file).exists()
    ]
    if problems:
        listing = "\n  ".join(problems)
        raise EditError(
            f"{len(problems)} compatibility edit(s) do not fit the source in {source_dir}:\n"
            f"  {listing}\nThe source is not Detectron2 0.6 as expected; nothing was changed."
        )
    for file, text in texts.items():
        (source_dir / file).write_text(text, encoding="utf-8")
    for new in new_files:
        (source_dir / new.file).write_text(new.text, encoding="utf-8")


def describe_edits() -> str:
    """Return the list of edits as text, one line per edit."""
    lines = [f"{edit.file}: {edit.times} x {edit.reason}" for edit in EDITS]
    lines += [f"{new.file}: added; {new.reason}" for new in NEW_FILES]
    return "\n".join(lines)


def edits_digest() -> str:
    """Return a short digest of the edits, to tell an installation made with other ones."""
    return hashlib.sha256(repr((EDITS, NEW_FILES)).encode()).hexdigest()[:16]
