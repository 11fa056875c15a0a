"""YAML and Python configurations of the same stem make the same experiment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Instances, RotatedBoxes
from torch import Tensor, nn

from tcm_d2.engine.open_config import open_plan
from tcm_d2.engine.plan import Plan
from tcm_d2.engine.seeding import seed_everything

CONFIGS_DIR = Path(__file__).resolve().parents[2] / "configs"
# Not recipes: bases, and what is only for CPUs.
YAML_ONLY = ("Base-", "embedded_", "small_")
STEMS = sorted(p.stem for p in (CONFIGS_DIR / "lazy").glob("*.py"))
# The same detector with other classes on other data: plain values, and one of them is enough.
OTHER_DATA_STEMS = [
    f"tcm_fcos_{name}" for name in ("dota_v15", "dota_v2", "hrsc2016", "ucas_aod", "icdar2015")
]
MODEL_STEMS = [stem for stem in STEMS if stem not in OTHER_DATA_STEMS]
FULL_SIZE_STEMS = ("tcm_fcos", "tcm_atss", "tcm_retinanet", "tcm_fcos_rn101", "fcos_no_tcm")
SMALL = {
    "MODEL.CLIP.NAME": ("model.backbone.name", "custom"),
    "MODEL.CLIP.EMBED_DIM": ("model.backbone.embed_dim", 32),
    "MODEL.CLIP.VISION_LAYERS": ("model.backbone.vision_layers", [1, 1, 1, 1]),
    "MODEL.CLIP.VISION_WIDTH": ("model.backbone.vision_width", 16),
    "MODEL.CLIP.TEXT_WIDTH": ("model.backbone.text_width", 32),
    "MODEL.CLIP.TEXT_HEADS": ("model.backbone.text_heads", 1),
    "MODEL.CLIP.TEXT_LAYERS": ("model.backbone.text_layers", 1),
    "MODEL.CLIP.POSITION_IMAGE_SIZE_PX": ("model.backbone.position_image_size_px", 128),
    "MODEL.ROTATED_FPN.OUT_CHANNELS": ("model.neck.out_channels", 32),
    "MODEL.ROTATED_HEAD.CHANNELS": ("model.head.channels", 64),
    "MODEL.ROTATED_HEAD.NUM_CONVS": ("model.head.num_convs", 1),
}
SMALL_TCM = {
    "MODEL.TCM.DECODER_WIDTH": ("model.tcm.decoder_width", 32),
    "MODEL.TCM.DECODER_HEADS": ("model.tcm.decoder_heads", 2),
    "MODEL.TCM.DECODER_LAYERS": ("model.tcm.decoder_layers", 1),
}


def _plans(stem: str, *, small: bool) -> tuple[Plan, Plan]:
    values = {}
    if small:
        values = SMALL if stem.endswith("no_tcm") else {**SMALL, **SMALL_TCM}
    yaml_overrides = [str(part) for key, (_, value) in values.items() for part in (key, value)]
    lazy_overrides = [f"{key}={value}" for key, value in values.values()]
    return (
        open_plan(CONFIGS_DIR / f"{stem}.yaml", ["MODEL.DEVICE", "cpu", *yaml_overrides]),
        open_plan(CONFIGS_DIR / "lazy" / f"{stem}.py", ["train.device=cpu", *lazy_overrides]),
    )


def _facts(value: Any) -> Any:
    """Return what two objects must have in common, as plain values."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.dtype, value.requires_grad, value.flatten().tolist())
    if isinstance(value, (list, tuple)):
        return [_facts(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _facts(item) for key, item in value.items()}
    if isinstance(value, (str, int, float, bool, type(None), torch.dtype, np.ndarray)):
        return value.tolist() if isinstance(value, np.ndarray) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _facts(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return value.__qualname__
    kept = {k: v for k, v in vars(value).items() if not k.startswith(("_parameters", "_buffers"))}
    return [type(value).__name__, _facts(kept)]


def _module_facts(model: nn.Module) -> dict[str, Any]:
    facts = {}
    for name, module in model.named_modules():
        own = {
            key: value
            for key, value in vars(module).items()
            if not key.startswith("_") and not isinstance(value, nn.Module)
        }
        # The registered name is a thin subclass of the detector that Python builds directly.
        facts[name] = (type(module).__name__ if name else "", _facts(own))
    return facts


def _seeded_model(plan: Plan) -> nn.Module:
    seed_everything(5)
    return plan.build_model(True)


def _batch(num_classes: int, *, with_masks: bool) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    instances = Instances((128, 128))
    instances.gt_boxes = RotatedBoxes(
        torch.tensor([[40.0, 50.0, 40.0, 20.0, 30.0], [90.0, 80.0, 60.0, 30.0, -60.0]])
    )
    instances.gt_classes = torch.tensor([1, num_classes - 1])
    sample: dict[str, Any] = {
        "image": torch.randint(0, 255, (3, 128, 128), generator=generator).byte(),
        "instances": instances,
    }
    if with_masks:
        sample["class_masks"] = torch.rand(num_classes, 32, 32, generator=generator) > 0.5
    return [sample]


def test_every_recipe_has_both_doors() -> None:
    yaml_stems = {p.stem for p in CONFIGS_DIR.glob("*.yaml") if not p.stem.startswith(YAML_ONLY)}
    assert yaml_stems == set(STEMS)
    assert {"tcm_fcos", "tcm_atss", "tcm_retinanet"} <= yaml_stems


@pytest.mark.parametrize("stem", STEMS)
def test_plan_values_are_equal(stem: str) -> None:
    yaml_plan, lazy_plan = _plans(stem, small=False)
    for field in dataclasses.fields(Plan):
        if field.name not in ("text", "text_name") and not field.name.startswith("build_"):
            ours, theirs = getattr(yaml_plan, field.name), getattr(lazy_plan, field.name)
            assert _facts(ours) == _facts(theirs), field.name
    assert yaml_plan.output_dir == f"output/{stem}"


@pytest.mark.parametrize("stem", MODEL_STEMS)
def test_models_and_losses_are_equal(stem: str) -> None:
    plans = _plans(stem, small=True)
    models = [_seeded_model(plan) for plan in plans]
    first, second = (model.state_dict() for model in models)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert _module_facts(models[0]) == _module_facts(models[1])
    losses = []
    for model in models:
        seed_everything(7)
        losses.append(model.train()(_batch(plans[0].num_classes, with_masks=model.tcm is not None)))
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


@pytest.mark.parametrize("stem", FULL_SIZE_STEMS)
def test_full_size_models_are_equal(stem: str) -> None:
    models = [_seeded_model(plan) for plan in _plans(stem, small=False)]
    first, second = (model.state_dict() for model in models)
    assert {n: t.shape for n, t in first.items()} == {n: t.shape for n, t in second.items()}
    assert _module_facts(models[0]) == _module_facts(models[1])


@pytest.mark.parametrize("stem", [*MODEL_STEMS, "tcm_fcos_icdar2015"])
def test_optimizer_schedule_and_augmentations_are_equal(stem: str) -> None:
    rates, groups, mappers = [], [], []
    for plan in _plans(stem, small=True):
        model = _seeded_model(plan)
        names = {id(p): name for name, p in model.named_parameters()}
        optimizer = plan.build_optimizer(model)
        groups.append(
            [
                {k: [names[id(p)] for p in v] if k == "params" else v for k, v in group.items()}
                for group in optimizer.param_groups
            ]
        )
        # One hook: the clipping of the gradient.
        assert len(optimizer._optimizer_step_pre_hooks) == 1
        marks = plan.length.in_iterations(1000)
        multiplier = plan.build_lr_multiplier(marks.max_iter, marks.steps)
        iterations = [0, 1, 250, 499, 500, 5000, *(s - 1 for s in marks.steps), *marks.steps]
        rates.append([multiplier(i / marks.max_iter) for i in iterations])
        mappers.append(
            [_facts(vars(plan.build_mapper(t))["_augmentations"]) for t in (True, False)]
        )
    assert groups[0] == groups[1]
    assert rates[0] == rates[1] and rates[0][-1] == pytest.approx(0.1 ** len(marks.steps))
    assert mappers[0] == mappers[1] and mappers[0][0]


@pytest.mark.parametrize("stem", ["tcm_fcos"])
def test_evaluators_are_equal(stem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[Any] = []

    def record(self: Any, *arguments: Any, **options: Any) -> None:
        names = ("dataset_name", "output_dir")
        made.append({**dict(zip(names, arguments)), **options})

    monkeypatch.setattr("tcm_d2.evaluation.dota_evaluator.DotaEvaluator.__init__", record)
    for plan in _plans(stem, small=False):
        plan.build_evaluator("dota_v1_val", tmp_path, False)
    assert made[0] == made[1] and made[0]["iou_threshold"] == 0.5


def test_views_of_an_evaluation_are_equal() -> None:
    yaml_plan = open_plan(CONFIGS_DIR / "tcm_fcos.yaml", ["TEST.TTA.ENABLED", "True"])
    lazy_plan = open_plan(CONFIGS_DIR / "lazy/tcm_fcos.py", ["dataloader.test.tta.enabled=true"])
    assert yaml_plan.tta is not None and yaml_plan.tta == lazy_plan.tta
    assert len(yaml_plan.tta.views) == 8
    with pytest.raises(ValueError, match=r"TEST\.TTA\.MERGE: expected one of .* got 'sum'"):
        open_plan(
            CONFIGS_DIR / "tcm_fcos.yaml", ["TEST.TTA.ENABLED", "True", "TEST.TTA.MERGE", "sum"]
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+train.epochs=3"], r"unknown key 'train\.epochs'; near matches: .*max_epochs"),
        (["+dataloader.train.batch_size=3"], r"unknown key 'dataloader\.train\.batch_size'"),
        (["model.tcm=null"], r"class_text and tcm: expected both or none"),
        (["model.head.num_classes=3"], r"class prompts: expected 3 .* got 15"),
        (["optimizer=null"], r"optimizer: expected a LazyCall"),
        (
            ["+model.head.score_thresh=0.1"],
            r"takes no such argument; near matches: score_threshold",
        ),
    ],
)
def test_bad_lazy_configurations_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_plan(CONFIGS_DIR / "lazy/tcm_fcos.py", overrides).build_model(True)


def test_other_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected \.yaml, \.yml or \.py, got '\.json'"):
        open_plan(tmp_path / "c.json")


def test_copy_of_a_lazy_configuration_names_its_parts() -> None:
    text = open_plan(CONFIGS_DIR / "lazy/tcm_atss.py", ["optimizer.lr=3e-4"]).text
    assert "_target_: tcm_d2.modeling.heads.atss.RotatedATSSHead" in text and "lr: 0.0003" in text
