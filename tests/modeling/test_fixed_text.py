"""Class embeddings: kept until weights change, fixed as constants, read from other names."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from detectron2.structures import Instances
from torch import nn

from tcm_d2.checkpoint.load import load_weights
from tcm_d2.config.run import run_from_cfg
from tcm_d2.engine.ema import WeightAverage
from tests.engine.small_detector import ARCHITECTURES, make_batch, small_config

FAST = ["MODEL.TCM.PROMPT_GENERATOR", "meta", "MODEL.TCM.BIMODAL_MATCHING", "True"]
KINDS = {"TCM": [], "FastTCM": FAST}


@pytest.fixture
def make(tmp_path) -> Callable[..., nn.Module]:
    def make_model(*overrides: str, architecture: str = "TCMRotatedFCOS") -> nn.Module:
        torch.manual_seed(0)
        cfg = small_config(tmp_path, "MODEL.META_ARCHITECTURE", architecture, *overrides)
        model = run_from_cfg(cfg).build_model().eval()
        with torch.no_grad():
            # So that a change of the text shows in the boxes.
            model.tcm.text_scale.fill_(0.5) if model.tcm is not None else None
        return model

    return make_model


def predict(model: nn.Module) -> list[Instances]:
    with torch.no_grad():
        return [output["instances"] for output in model(make_batch())]


def assert_same_boxes(first: list[Instances], second: list[Instances]) -> None:
    assert sum(map(len, first)) > 0
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.pred_boxes.tensor, two.pred_boxes.tensor)
        assert torch.equal(one.scores, two.scores)
        assert torch.equal(one.pred_classes, two.pred_classes)


def _step_in_evaluation_mode(model: nn.Module) -> None:
    model.tcm.context.grad = torch.ones_like(model.tcm.context)
    # Fused: torch does not count this write.
    torch.optim.AdamW([model.tcm.context], lr=0.1, fused=True).step()


def _swap_average(model: nn.Module) -> None:
    average = WeightAverage(model, decay=0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    average.swapped_in().__enter__()
    with torch.no_grad():
        model.tcm.context.add_(0)


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "train and back": lambda model: model.train().eval(),
    "load_state_dict": lambda model: model.load_state_dict(model.state_dict()),
    "optimizer step": _step_in_evaluation_mode,
    "context in place": lambda model: nn.init.ones_(model.tcm.context),
    "text tower in place": lambda model: nn.init.ones_(model.text_encoder.ln_final.bias),
    "dtype move": lambda model: model.bfloat16().float(),
    "move of the text tower alone": lambda model: model.text_encoder.bfloat16().float(),
    "average swapped in": _swap_average,
    "names": lambda model: model.set_class_names(["car", "tree"], template="a {label}"),
}
FAST_CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "meta query in place": lambda model: nn.init.ones_(model.tcm.meta_query),
    "prompt generator in place": lambda model: nn.init.ones_(
        model.tcm.prompt_generator.prompt_proj[4].bias
    ),
}


@pytest.mark.parametrize(
    ("kind", "change"),
    [(kind, name) for kind in KINDS for name in CHANGES]
    + [("FastTCM", name) for name in FAST_CHANGES],
)
def test_text_is_computed_once_until_a_weight_changes(
    make: Callable[..., nn.Module], kind: str, change: str
) -> None:
    model = make(*KINDS[kind])
    calls: list[int] = []
    model.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    first = predict(model)
    assert_same_boxes(predict(model), first)
    assert len(calls) == 1
    {**CHANGES, **FAST_CHANGES}[change](model)
    kept = predict(model)
    assert len(calls) == 2
    # With gradients nothing is kept.
    model(make_batch())
    assert len(calls) == 3
    # A copy holds nothing that was kept, and is computed the same way to the last bit.
    assert_same_boxes(kept, predict(copy.deepcopy(model)))
    assert len(calls) == 4


def test_average_and_own_weights_alternate(make: Callable[..., nn.Module]) -> None:
    model = make(*FAST)
    average = WeightAverage(model, decay=0.9)
    with torch.no_grad():
        model.tcm.context.mul_(2)
        model.tcm.meta_query.mul_(-1)
    own = predict(model)
    with average.swapped_in():
        averaged = predict(model)
    assert not torch.equal(averaged[0].scores, own[0].scores)
    assert_same_boxes(predict(model), own)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_move(make: Callable[..., nn.Module]) -> None:
    model = make(*FAST)
    predict(model)
    for device in ("cuda", "cpu", "cuda"):
        model.to(device)
        with torch.no_grad():
            assert model.class_embeddings().device.type == device
            torch.testing.assert_close(
                model.class_embeddings(), model.text_encoder.encode(model.tcm)
            )


def test_prompts_from_the_image_are_not_kept(make: Callable[..., nn.Module]) -> None:
    model = make("MODEL.TCM.PROMPT_GENERATOR", "image")
    predict(model)
    with pytest.raises(ValueError, match=r"'image' they differ from image to image"):
        model.class_embeddings()
    with pytest.raises(ValueError, match=r"differ from image to image.*train with 'meta'"):
        model.fix_text()
    predict(model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_fixed_text_gives_the_same_boxes(
    make: Callable[..., nn.Module], architecture: str, kind: str
) -> None:
    model = make(*KINDS[kind], architecture=architecture)
    expected = predict(model)
    model.fix_text()
    assert_same_boxes(predict(model), expected)
    state = model.state_dict()
    text_names = {n for n in state if n.startswith("text_encoder.")}
    assert text_names == {"text_encoder.features", "text_encoder.class_token_ids"}
    assert not any(n.startswith(("tcm.context", "tcm.meta", "tcm.prompt")) for n in state)
    # Into a model of the same configuration, which drops its text tower.
    torch.manual_seed(1)
    other = make(*KINDS[kind], architecture=architecture).train()
    report = load_weights(other, state, source="w", require_all_parameters=True)
    assert report.is_complete and not other.training
    assert_same_boxes(predict(other), expected)


def test_fixed_text_is_for_inference(make: Callable[..., nn.Module]) -> None:
    model = make(*FAST)
    full = model.state_dict()
    model.fix_text()
    with pytest.raises(ValueError, match=r"made for inference; train from the checkpoint"):
        model.train()(make_batch())
    with pytest.raises(ValueError, match=r"weights 'w': .* made for inference.* build it anew"):
        load_weights(model, full, source="w")
    model.double()
    assert model.eval().class_embeddings().dtype == torch.float64


def test_other_names_change_the_score_map(make: Callable[..., nn.Module]) -> None:
    model = make()
    before = model.class_embeddings().detach()
    model.set_class_names(["plane", "vessel"], template="{label}")
    after = model.class_embeddings().detach()
    assert torch.equal(after[0], before[0]) and not torch.allclose(after[1], before[1])
    model.set_class_names(["plane", "ship"], template="{label}")
    assert torch.equal(model.class_embeddings(), before)


@pytest.mark.parametrize(
    ("overrides", "fixed", "names", "message"),
    [
        ([], False, ["ship"], r"expected 2, got 1; .*their number cannot"),
        ([], False, ["ship", "a b c d e f g h i"], r"needs 11 tokens .*room for 8; shorten"),
        (FAST, True, ["ship", "plane"], "text features of its classes as constants"),
        (["MODEL.TCM.ENABLED", "False"], False, ["a", "b"], r"has no text \(MODEL\.TCM\.ENABLED"),
    ],
)
def test_names_that_cannot_be_set(
    make: Callable[..., nn.Module],
    overrides: list[str],
    fixed: bool,
    names: list[str],
    message: str,
) -> None:
    model = make(*overrides)
    if fixed:
        model.fix_text()
    with pytest.raises(ValueError, match=message):
        model.set_class_names(names, template="{label}")


def test_constants_of_other_classes_are_refused(make: Callable[..., nn.Module]) -> None:
    model = make()
    model.fix_text()
    other = make("MODEL.TCM.CLASS_NAMES", "['Plane', 'tanker']")
    with pytest.raises(ValueError, match=r"made for plane, ship, and cannot .* plane, tanker; set"):
        load_weights(other, model.state_dict(), source="w")
    state = {**model.state_dict(), "text_encoder.features": torch.zeros(3, 32)}
    with pytest.raises(ValueError, match=r"expected features of 2 classes and width 32, got shape"):
        load_weights(make(), state, source="w")
    state = {**model.state_dict(), "text_encoder.class_token_ids": torch.tensor([[1, 10**9]])}
    with pytest.raises(ValueError, match=r"class token ids: expected .* damaged"):
        load_weights(make(), state, source="w")
    with pytest.raises(ValueError, match="this detector has no text"):
        make("MODEL.TCM.ENABLED", "False").fix_text()
