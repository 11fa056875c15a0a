"""Mutated weight files of every form, each read in a child process.

    python -m tests.faults.hostile_weights --minutes 5

prints what became of them. A file that kills the child, takes too long, gives another error than
the one that names the file, or is an archive of torch's that is read with other numbers than the
good one, is kept and named, and the exit status is 1.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tcm_d2.weight_files.archive import is_archive
from tcm_d2.weight_files.reading import read_weight_file
from tests.faults.hostile_rasters import report_campaign
from tests.weight_files.foreign import save_as_mmengine


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(12, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def _make_model() -> nn.Module:
    torch.manual_seed(0)
    return _Model()


def make_good_files(folder: Path) -> list[Path]:
    """Write the same small model in every form that is read here."""
    model = _make_model()
    state = model.state_dict()
    checkpoint = {"model": state, "iteration": 3, "optimizer": {"state": {}, "lr": [1e-4]}}
    names = ("zip.pth", "legacy.pth", "script.pt", "a.safetensors", "mm.pth", "mm_old.pth")
    paths = [folder / name for name in names]
    torch.save(checkpoint, paths[0])
    torch.save(checkpoint, paths[1], _use_new_zipfile_serialization=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, torch.zeros(1, 12)), str(paths[2]))
    save_file(state, paths[3])
    save_as_mmengine(state, paths[4])
    save_as_mmengine(state, paths[5], old_format=True)
    return paths


def try_file(path: Path) -> str:
    """Read a weight file; return "read" or "refused".

    Raises:
        AssertionError: an error that does not name the file, or damaged numbers were believed.
        Exception: any other error than a ValueError.
    """
    try:
        file = read_weight_file(path)
    except ValueError as error:
        assert path.name in str(error), f"does not name its file: {error}"
        return "refused"
    good = _make_model().state_dict()
    for name, tensor in file.tensors.items():
        copied = tensor.clone()  # all of it can be used
        if is_archive(path) and name in good:
            assert torch.equal(copied, good[name]), f"believed damaged numbers: {name}"
    return "read"


if __name__ == "__main__":
    sys.exit(report_campaign(__doc__, make_files=make_good_files, read=try_file))
