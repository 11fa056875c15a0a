"""Losses of boxes as a configuration chooses them, in every head."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model

from tcm_d2.config import get_tcm_config
from tcm_d2.config.nodes import part_node
from tcm_d2.config.registries import (
    ROTATED_LOSS_REGISTRY,
    import_user_part,
    registered_targets,
)
from tcm_d2.modeling.losses import GWDLoss, KLDLoss, L1Loss, RotatedIoULoss
from tests.engine.small_detector import ARCHITECTURES, make_batch, small_config
from tests.modeling.small_clip import build_head

NAMES = [name for name, _ in ROTATED_LOSS_REGISTRY]
KEY = "MODEL.ROTATED_HEAD.BOX_LOSS"
BOXES = torch.tensor([[40.0, 40.0, 50.0, 20.0, 30.0], [90.0, 80.0, 30.0, 30.0, 0.0]])
CLASSES = torch.tensor([0, 2])

USERS_FILE = '''
from detectron2.config import configurable
from tcm_d2.config.registries import ROTATED_LOSS_REGISTRY
from tcm_d2.modeling.losses import BoxLoss


@ROTATED_LOSS_REGISTRY.register()
class CenterLoss(BoxLoss):
    """Distance of the centres, beyond a margin."""

    defaults = {"margin": 0.5}

    @configurable
    def __init__(self, *, margin, weight):
        super().__init__(weight=weight)
        self.margin = margin

    def __call__(self, pred_boxes, target_boxes):
        distance = (pred_boxes - target_boxes)[:, :2].abs().sum(dim=1)
        return (distance - self.margin).clamp(min=0)
'''


def small_head(architecture: str, *overrides: str) -> torch.nn.Module:
    cfg = get_tcm_config()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.ROTATED_FPN.OUT_CHANNELS = cfg.MODEL.ROTATED_HEAD.CHANNELS = 32
    cfg.MODEL.ROTATED_HEAD.NUM_CLASSES, cfg.MODEL.ROTATED_HEAD.NUM_CONVS = 3, 1
    cfg.merge_from_list(list(overrides))
    return build_head(cfg)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NAMES)
def test_every_head_takes_every_loss(architecture: str, name: str) -> None:
    head = small_head(architecture, KEY, name, f"{KEY}_WEIGHT", "2.0")
    assert type(head.box_loss) is ROTATED_LOSS_REGISTRY.get(name)
    features = [torch.randn(2, 32, size, size) for size in (32, 16, 8, 4, 2)]
    found = []
    for weight in (2.0, 1.0):
        head.box_loss.weight = weight
        losses = head.losses(head(features), [BOXES, BOXES[:0]], [CLASSES, CLASSES[:0]])
        found.append(losses["loss_box"])
    assert found[0].item() == pytest.approx(2 * found[1].item()) and found[1].item() > 0
    sum(losses.values()).backward()
    for parameter in head.parameters():
        assert bool(parameter.grad.isfinite().all())
    predictors = [n for n in ("distance_predictor", "delta_predictor") if hasattr(head, n)]
    assert bool(getattr(head, predictors[0]).weight.grad.any())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NAMES)
def test_an_image_without_objects_costs_no_box(architecture: str, name: str) -> None:
    head = small_head(architecture, KEY, name)
    features = [torch.randn(1, 32, size, size) for size in (32, 16, 8, 4, 2)]
    losses = head.losses(head(features), [BOXES[:0]], [CLASSES[:0]])
    assert losses["loss_box"].item() == 0
    losses["loss_box"].backward()


def test_heads_have_their_own_loss_where_none_is_named() -> None:
    mode = ("MODEL.ROTATED_HEAD.BOX_LOSS_MODE", "square", f"{KEY}_WEIGHT", "3.0")
    for architecture in ARCHITECTURES:
        loss = small_head(architecture, *mode).box_loss
        assert loss.weight == 3.0
        if architecture == "TCMRotatedRetinaNet":
            assert type(loss) is L1Loss
        else:
            assert type(loss) is RotatedIoULoss and loss.mode == "square"


def test_settings_come_from_the_section_of_the_loss() -> None:
    kld = small_head(
        "TCMRotatedRetinaNet",
        *(KEY, "KLDLoss", "MODEL.BOX_LOSS.KLDLoss.SYMMETRY", "max"),
        *("MODEL.BOX_LOSS.KLDLoss.TAU", "2.0"),
    ).box_loss
    assert (kld.symmetry, kld.tau, kld.fun) == ("max", 2.0, "log1p")


def test_unknown_loss_is_named_with_what_is_near() -> None:
    with pytest.raises(ValueError, match=r"BOX_LOSS: unknown name 'GWD'; .*known: .*GWDLoss"):
        small_head("TCMRotatedFCOS", KEY, "GWD")


def test_a_loss_is_plain_data_in_the_tree() -> None:
    for name in NAMES:
        node = part_node(ROTATED_LOSS_REGISTRY, name, get_tcm_config(), key=KEY)
        assert node["_target_"] is ROTATED_LOSS_REGISTRY.get(name)
        assert node["_target_"] in registered_targets().values()
        loss = instantiate(node)
        assert vars(loss) == vars(type(loss)(get_tcm_config()))


@pytest.fixture
def users_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "loss_of_a_user.py"
    path.write_text(USERS_FILE)
    yield path
    ROTATED_LOSS_REGISTRY._obj_map.pop("CenterLoss", None)
    sys.modules.pop("loss_of_a_user", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loss_from_outside_is_one_file(
    tmp_path: Path, users_file: Path, architecture: str
) -> None:
    """Its own number is a key of its own section; nothing of the package knows it."""
    import_user_part(users_file)
    setting = ("MODEL.META_ARCHITECTURE", architecture, KEY, "CenterLoss")
    cfg: CfgNode = small_config(tmp_path, *setting, "MODEL.BOX_LOSS.CenterLoss.MARGIN", "0.25")
    torch.manual_seed(0)
    model = build_model(cfg).train()
    assert type(model.head.box_loss).__name__ == "CenterLoss"
    assert model.head.box_loss.margin == 0.25
    loss = model(make_batch())["loss_box"]
    loss.backward()
    assert loss.item() > 0


def test_python_configurations_name_all_settings() -> None:
    with pytest.raises(TypeError, match="tau"):
        GWDLoss(fun="log1p", alpha=1.0, normalize=True, weight=1.0)
    assert KLDLoss.defaults.keys() >= {"fun", "tau", "alpha", "sqrt", "symmetry"}
