"""Heads that classify by class embeddings: the list of classes is free after training."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from tcm_d2.cpu import accelerate
from tcm_d2.export.dense_model import DenseModel
from tcm_d2.modeling.heads.classifiers import ClassWords, name_untrained
from tests.modeling.test_anchor_heads import set_head
from tests.modeling.test_one_stage import tiny_config, two_inputs

KINDS = ["fcos", "atss", "retinanet", "s2anet"]
OTHER_NAMES = ["wind turbine", "plane", "bus", "ship"]


def open_config(kind: str = "fcos", *, prompt_generator: str = "none") -> CfgNode:
    cfg = tiny_config(prompt_generator=prompt_generator, classifier="text")
    # With 32, a group of the norm has one value at the coarsest level: rounding, made a cosine.
    cfg.MODEL.ROTATED_HEAD.CHANNELS = 64
    if kind == "s2anet":
        set_head(cfg, "retinanet")
        head = cfg.MODEL.ROTATED_HEAD
        head.NAME, head.ANCHOR_SCALES_PER_OCTAVE, head.ANCHOR_RATIOS = "RotatedS2ANetHead", 1, [1.0]
    elif kind != "fcos":
        set_head(cfg, kind)
    return cfg


def open_model(kind: str = "fcos", **options: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_model(open_config(kind, **options)).eval()
    model.head.score_threshold = 0.0
    return model


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    """Return the class logits (N, R, K) of two images."""
    with torch.no_grad():
        images = model.preprocess_images(two_inputs()).tensor
        text = None if model.tcm.text_needs_image else model.class_embeddings()
        output, _ = model.dense_output(images, text)
        return torch.cat(model.head.dense_output(output).class_logits, dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_every_trainable_parameter(kind: str) -> None:
    model = open_model(kind).train()
    losses = model(two_inputs())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_other_words_is_found(kind: str) -> None:
    model = open_model(kind)
    first = logits_of(model)
    model.set_class_names(OTHER_NAMES, template="{label}")
    other = logits_of(model)
    assert first.shape[:2] == other.shape[:2] and other.shape[2] == 4
    assert not torch.equal(other[..., 0], other[..., 2])
    with torch.no_grad():
        found = model(two_inputs())[0]["instances"]
    assert set(found.pred_classes.tolist()) <= set(range(4)) and len(found) > 0
    model.set_class_names(["plane", "ship"], template="{label}")
    assert torch.equal(logits_of(model), first)


def test_order_of_the_words_is_the_order_of_the_classes() -> None:
    model = open_model()
    first = logits_of(model)
    model.set_class_names(["ship", "plane"], template="{label}")
    torch.testing.assert_close(logits_of(model), first.flip(2), rtol=1e-4, atol=1e-4)


def test_weights_of_one_list_of_classes_fit_another() -> None:
    model = open_model()
    cfg = open_config()
    cfg.MODEL.TCM.CLASS_NAMES, cfg.MODEL.ROTATED_HEAD.NUM_CLASSES = OTHER_NAMES, 4
    other = build_model(cfg).eval()
    other.load_state_dict(model.state_dict())
    model.set_class_names(OTHER_NAMES, template="{label}")
    # To the other these are what it was trained on, so that only the words are the same.
    assert torch.equal(model.class_embeddings()[:4], other.class_embeddings())
    assert model.untrained == (0, 2) and other.untrained == ()


def test_an_untrained_class_is_named_by_the_score_map_where_something_is() -> None:
    """The head alone was taught that whatever has no label looks like no word."""
    logits = torch.tensor([2.0, -9.0, -1.0, 0.5])[None, None, :, None, None]
    logits = torch.cat([logits, logits - 3], dim=1)  # one place, two anchors
    text = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 2.0], [-1.0, 0.0]])[None]
    score_map = torch.tensor([0.0, 3.0, 1.0, 2.0])[None, :, None, None]
    named = name_untrained(logits, ClassWords(text, 2, (1,), score_map))
    nearness = (torch.tensor([0.8, 0.6, -0.8]) / 0.07).softmax(0)
    share = score_map.softmax(1)[0, 1, 0, 0]
    for anchor in (0, 1):
        there = logits[0, anchor, [0, 2, 3], 0, 0].sigmoid()
        expected = (nearness @ there) ** 0.35 * share**0.65
        torch.testing.assert_close(named[0, anchor, 1, 0, 0].sigmoid(), expected)
    trained = [0, 2, 3]
    assert torch.equal(named[:, :, trained], logits[:, :, trained])


def test_a_word_that_is_asked_for_alone_still_stands_against_the_trained_ones() -> None:
    """With nothing beside it every object would be what the one word says."""
    model = open_model()
    model.set_class_names(["bus"], template="{label}")
    assert len(model.class_embeddings()) == 3 and model.untrained == (0,)
    with torch.no_grad():
        images = model.preprocess_images(two_inputs()).tensor
        found = model.features_with_text(images, model.class_embeddings())
    assert found.words is not None and found.words.score_map_NKHW.shape[1] == 3
    assert found.score_map_NKHW is not None and found.score_map_NKHW.shape[1] == 1
    assert logits_of(model).shape[2] == 1


def test_prompts_of_images_give_each_image_its_embeddings() -> None:
    assert logits_of(open_model(prompt_generator="image")).isfinite().all()


def test_accelerated_detector_gives_the_same_logits() -> None:
    model = open_model()
    expected = logits_of(model)
    accelerate(model)
    torch.testing.assert_close(logits_of(model), expected, rtol=1e-3, atol=1e-3)


def test_export_folds_the_given_words_into_constants() -> None:
    model = open_model()
    model.set_class_names(OTHER_NAMES, template="{label}")
    exported = DenseModel(model, kind="candidates")
    assert exported.text is not None and len(exported.text) == 4
    images = torch.stack([i["image"] for i in two_inputs()]).float()
    with torch.no_grad():
        _, scores, classes = exported(images)
    assert (scores > 0).any() and set(classes[scores > 0].tolist()) <= set(range(4))
    program = torch.export.export(DenseModel(model, kind="dense"), (images,), strict=False)
    torch.testing.assert_close(
        program.module()(images)[1], logits_of(model).sigmoid(), rtol=1e-3, atol=1e-4
    )


def test_a_text_classifier_without_text_is_refused() -> None:
    cfg = open_config()
    cfg.MODEL.TCM.ENABLED = False
    with pytest.raises(ValueError, match=r"classifier: 'text' needs .*MODEL\.TCM\.ENABLED"):
        build_model(cfg)


def test_unknown_classifier_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one of linear, text, got 'clip'"):
        build_model(tiny_config(classifier="clip"))
