"""All three heads as they train: no parameter without a gradient, geometry never in half."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from torch import Tensor, nn

import tcm_d2.modeling  # noqa: F401 - registers the meta-architectures
from tcm_d2.engine.build_experiment import build_experiment
from tcm_d2.engine.loop import train
from tests.engine.small_detector import (
    ARCHITECTURES,
    DATASET_NAME,
    make_batch,
    make_patches,
    small_config,
)

HALF = (torch.bfloat16, torch.float16)


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield make_patches(tmp_path_factory.mktemp("data"))
    if DATASET_NAME in DatasetCatalog.list():
        DatasetCatalog.remove(DATASET_NAME)
        MetadataCatalog.remove(DATASET_NAME)


def _model(folder: Path, architecture: str, *overrides: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = build_model(
        small_config(folder, "MODEL.META_ARCHITECTURE", architecture, *overrides)
    )
    for norm in model.modules():
        # Randomly initialised CLIP towers start with residual branches switched off.
        if isinstance(norm, nn.BatchNorm2d) and not norm.weight.any():
            nn.init.constant_(norm.weight, 0.5)
    return model.train()


TCM = {
    "tcm": (),
    "tcm with image prompt": ("MODEL.TCM.PROMPT_GENERATOR", "image"),
    "no tcm": ("MODEL.TCM.ENABLED", "False"),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("overrides", TCM.values(), ids=TCM)
def test_every_trainable_parameter_gets_a_gradient(
    tmp_path: Path, architecture: str, overrides: tuple[str, ...]
) -> None:
    """Also without objects: else processes would wait for each other in data-parallel training."""
    # FCOS's first boxes are small: inside an object turning them changes nothing, and the angle's
    # exact gradient is 0. Larger ones cross its border.
    larger = ("MODEL.ROTATED_HEAD.DISTANCE_BIAS_INIT", "1.0")
    model = _model(tmp_path, architecture, *overrides, *larger)
    for empty in (True, False):
        model.zero_grad()
        losses = model(make_batch(empty=empty))
        assert all(bool(loss.isfinite()) for loss in losses.values())
        sum(losses.values()).backward()
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        assert [name for name, p in named if p.grad is None] == []
        assert [name for name, p in named if not p.grad.isfinite().all()] == []
    # Levels without an object learn nothing about boxes from these two images.
    unused = {name for name, p in named if not p.grad.any()}
    assert {name for name in unused if "_scales." not in name} == set()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_trains_on_the_cpu(tmp_path: Path, patches: Path, architecture: str) -> None:
    """The same run in both precisions: losses stay close, weights and moments in float32."""
    rows = []
    for enabled in ("False", "True"):
        cfg = small_config(
            tmp_path,
            *("MODEL.META_ARCHITECTURE", architecture, "SOLVER.AMP.ENABLED", enabled),
            *("SOLVER.AMP.DTYPE", "bfloat16", "OUTPUT_DIR", str(tmp_path / enabled)),
            *("DATASETS.PATCH_DIRS", repr([f"{DATASET_NAME}={patches}"])),
        )
        experiment = build_experiment(cfg, for_training=True)
        train(experiment, resume=False)
        text = (tmp_path / enabled / "metrics.json").read_text()
        rows.append([json.loads(line)["total_loss"] for line in text.splitlines()])
    assert rows[0] != rows[1] and rows[1] == pytest.approx(rows[0], rel=0.05)
    assert {p.dtype for p in experiment.model.parameters()} == {torch.float32}
    moments = experiment.training.optimizer.state_dict()["state"].values()
    assert {m["exp_avg"].dtype for m in moments} == {torch.float32}


class _Dtypes:
    """Remembers the dtypes of floating tensors that pass through functions."""

    def __init__(self) -> None:
        self.seen: dict[str, set[torch.dtype]] = {}

    def watch(self, patch: pytest.MonkeyPatch, holder: Any, name: str) -> None:
        original = getattr(holder, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            dtypes = self.seen.setdefault(name, set())
            outputs = result if isinstance(result, tuple) else (result,)
            for value in [*args, *kwargs.values(), *outputs]:
                if isinstance(value, Tensor) and value.is_floating_point():
                    dtypes.add(value.dtype)
            return result

        patch.setattr(holder, name, watched)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_geometry_is_in_float32_under_autocast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, dtype: torch.dtype
) -> None:
    """Coders, IoU, its loss and NMS, in training and prediction; towers stay in half."""
    from tcm_d2.modeling.dense import anchor_assigners, decode, delta_coder, point_coder
    from tcm_d2.modeling.heads import atss, dense_head, fcos, retinanet
    from tcm_d2.modeling.losses import L1Loss, RotatedIoULoss, iou

    model = _model(tmp_path, architecture)
    dtypes = _Dtypes()
    for coder in (point_coder.DistanceAnglePointCoder, delta_coder.DeltaBoxCoder):
        dtypes.watch(monkeypatch, coder, "encode")
        dtypes.watch(monkeypatch, coder, "decode")
    dtypes.watch(monkeypatch, iou, "paired_iou_rotated")
    for loss in (RotatedIoULoss, L1Loss):
        dtypes.watch(monkeypatch, loss, "__call__")
    dtypes.watch(monkeypatch, decode, "batched_nms_rotated")
    for module in (anchor_assigners, dense_head, fcos, atss, retinanet):
        for name in ("box_iou_rotated", "focal_loss_sum"):
            if hasattr(module, name):
                dtypes.watch(monkeypatch, module, name)
    towers: set[torch.dtype] = set()
    model.head.class_tower.register_forward_hook(lambda m, i, output: towers.add(output.dtype))
    with torch.autocast("cpu", dtype=dtype):
        found = model(make_batch())
        with torch.no_grad():
            model.eval()(make_batch())
    assert all(loss.dtype == torch.float32 for loss in found.values())
    assert dtype in towers
    needed = {"decode", "batched_nms_rotated", "focal_loss_sum", "__call__"}
    needed |= {"encode"} if "RetinaNet" in architecture else {"paired_iou_rotated"}
    assert needed <= dtypes.seen.keys()
    assert {name: kinds for name, kinds in dtypes.seen.items() if kinds != {torch.float32}} == {}
