"""Each kind of file as MODEL.WEIGHTS of a small detector: values that arrive, and the report."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn

from tcm_d2.checkpoint.load import SafeCheckpointer, load_weights
from tcm_d2.modeling.clip.attention_pool import resize_positional_embedding
from tests.checkpoint.detectors import small_detector
from tests.modeling.small_clip import randomize
from tests.weight_files.foreign import save_as_mmengine

CLIP_TEXT = dict(context_length=77, vocab_size=49408, width=64, heads=1, layers=2)


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    return small_detector()


def make_clip(*, layers: tuple[int, ...] = (1, 1, 1, 1), grid: int = 7) -> CLIP:
    vision_cfg = dict(layers=layers, width=8, image_size=32 * grid)
    clip = CLIP(48, vision_cfg, CLIP_TEXT, quick_gelu=True).eval()
    randomize(clip)
    return clip


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def save_clip(clip: CLIP, kind: str, folder: Path) -> Path:
    """Write a CLIP as OpenAI, OpenCLIP and the hubs do."""
    path = folder / {"safetensors": "open_clip_model.safetensors"}.get(kind, "RN50.pt")
    if kind == "OpenAI archive":
        example = (torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.long))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(clip, example, check_trace=False).half(), str(path))
    elif kind == "OpenCLIP epoch":
        state = {f"module.{name}": tensor for name, tensor in clip.state_dict().items()}
        torch.save({"epoch": 5, "name": "run", "state_dict": state, "optimizer": {}}, path)
    elif kind == "safetensors":
        save_file(clip.state_dict(), path)
    else:
        torch.save(clip.state_dict(), path)
    return path


@pytest.mark.parametrize("kind", ["OpenAI archive", "OpenCLIP epoch", "safetensors", "state dict"])
def test_whole_clip(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, detector: nn.Module, kind: str
) -> None:
    """The towers arrive, the attention pool's grid is resized, the rest stays as built."""
    clip, before = make_clip(), snapshot(detector)
    path = save_clip(clip, kind, tmp_path)
    if kind == "OpenAI archive":
        clip = clip.half().float()
    SafeCheckpointer(detector).load(str(path), checkpointables=[])
    theirs, after = clip.state_dict(), detector.state_dict()
    for name in ("conv1.weight", "layer3.0.bn2.running_var", "layer4.0.downsample.0.weight"):
        assert torch.equal(after[f"backbone.{name}"], theirs[f"visual.{name}"]), name
    for name in ("token_embedding.weight", "positional_embedding", "text_projection"):
        assert torch.equal(after[f"text_encoder.{name}"], theirs[name]), name
    assert torch.equal(after["attention_pool.c_proj.bias"], theirs["visual.attnpool.c_proj.bias"])
    positions = theirs["visual.attnpool.positional_embedding"]
    assert positions.shape == (50, 256)
    resized = resize_positional_embedding(positions, (8, 8))
    assert torch.equal(after["attention_pool.positional_embedding"], resized)
    for name in before:
        if name.startswith(("tcm.", "neck.", "head.")):
            assert torch.equal(after[name], before[name]), name
    message = caplog.text
    assert "names translated from CLIP's" in message
    assert "attention_pool.positional_embedding (50, 256) -> (65, 256), grid resized" in message


def test_whole_clip_report() -> None:
    model = small_detector()
    report = load_weights(model, make_clip(grid=8).state_dict(), source="clip.pt")
    assert report.converted_from == "CLIP" and report.notes == []
    assert report.unexpected == [] and report.mismatched == [] and report.reshaped == []
    assert {n.partition(".")[0] for n in report.missing} == {"tcm", "neck", "head"}
    assert report.dead == ["logit_scale"]
    assert "backbone.* (114)" in report.as_table()


def test_clip_into_a_detector_without_text() -> None:
    model = small_detector(MODEL__TCM__ENABLED=False)
    report = load_weights(model, make_clip().state_dict(), source="clip.pt")
    assert {n.partition(".")[0] for n in report.loaded} == {"backbone"}
    assert report.unexpected == [] and report.mismatched == []
    assert {n.partition(".")[0] for n in report.dead} == {
        "attention_pool",
        "text_encoder",
        "logit_scale",
    }


def test_clip_into_frozen_norm() -> None:
    model = small_detector(MODEL__CLIP__NORM="FrozenBN")
    clip = make_clip()
    clip.visual.bn1.running_mean += 2
    report = load_weights(model, clip.state_dict(), source="clip.pt")
    assert torch.equal(model.backbone.bn1.running_mean, clip.visual.bn1.running_mean)
    assert "backbone.bn1.num_batches_tracked" in report.dead and report.unexpected == []


def test_clip_of_another_depth_is_not_loaded_in_part() -> None:
    """RN101's first blocks have RN50's names and shapes."""
    model = small_detector()
    before = snapshot(model)
    clip = make_clip(layers=(1, 1, 3, 1))
    report = load_weights(model, clip.state_dict(), source="deep.pt")
    assert not any(name.startswith("backbone.") for name in report.loaded)
    assert torch.equal(model.backbone.conv1.weight, before["backbone.conv1.weight"])
    assert report.notes == [
        "the file's image tower is another one (see backbone.layer3.1.conv1.weight): "
        "backbone.* not loaded"
    ]
    assert torch.equal(model.text_encoder.ln_final.bias, clip.ln_final.bias)


def test_longer_text_positions_are_cut_and_shorter_refused() -> None:
    model, state = small_detector(), make_clip().state_dict()
    positions = torch.randn(248, 64)
    report = load_weights(model, {**state, "positional_embedding": positions}, source="long.pt")
    assert torch.equal(model.text_encoder.positional_embedding, positions[:77])
    assert any("(248, 64) -> (77, 64), first positions" in str(r) for r in report.reshaped)
    with pytest.raises(ValueError, match=r"'short\.pt': text positional.*at least 77.*got 40"):
        load_weights(model, {**state, "positional_embedding": positions[:40]}, source="short.pt")


@pytest.mark.parametrize(("kind", "warns"), [("OpenAI archive", True), ("state dict", False)])
def test_openai_archive_with_plain_gelu_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, warns: bool
) -> None:
    model = small_detector()
    for block in model.text_encoder.transformer.resblocks:
        block.mlp.gelu = nn.GELU()
    SafeCheckpointer(model).load(str(save_clip(make_clip(), kind, tmp_path)), checkpointables=[])
    assert ("ends in -quickgelu" in caplog.text) == warns


def test_own_checkpoint_from_another_image_size() -> None:
    """Only the attention pool's grid differs: it is resized, and the rest is the same."""
    source = small_detector(MODEL__CLIP__POSITION_IMAGE_SIZE_PX=512)
    model = small_detector()
    report = load_weights(model, source.state_dict(), source="own.pth")
    assert report.is_complete and report.converted_from == ""
    assert [str(r) for r in report.reshaped] == [
        "attention_pool.positional_embedding (257, 256) -> (65, 256), grid resized"
    ]
    expected = resize_positional_embedding(source.attention_pool.positional_embedding, (8, 8))
    assert torch.equal(model.attention_pool.positional_embedding, expected)


def test_detector_without_tcm_starts_one_with_tcm() -> None:
    """Zero columns for the score map: at first the pyramid is the one without it."""
    source = small_detector("atss", MODEL__TCM__ENABLED=False)
    model = small_detector("atss")
    report = load_weights(model, source.state_dict(), source="plain.pth")
    assert [(r.name, r.how) for r in report.reshaped] == [
        ("neck.lateral_convs.2.weight", "15 columns of the score map zero"),
        ("neck.extra_convs.0.weight", "15 columns of the score map zero"),
    ]
    assert report.unexpected == [] and report.mismatched == []
    images = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        expected, _ = source.features(images)
        actual, score_map = model.features(images)
    assert score_map is not None
    for level in range(5):
        torch.testing.assert_close(actual[level], expected[level], rtol=1e-4, atol=1e-5)
    model.train()
    sum(level.sum() for level in model.features(images)[0]).backward()
    assert model.neck.lateral_convs[2].weight.grad[:, -15:].abs().max() > 0


def test_score_map_columns_are_dropped_without_tcm() -> None:
    source, model = small_detector(), small_detector(MODEL__TCM__ENABLED=False)
    report = load_weights(model, source.state_dict(), source="tcm.pth")
    assert [str(r) for r in report.reshaped] == [
        "neck.lateral_convs.2.weight (32, 271, 1, 1) -> (32, 256, 1, 1), without the score map"
    ]
    lateral = model.neck.lateral_convs[2].weight
    assert torch.equal(lateral, source.neck.lateral_convs[2].weight[:, :256])
    expected = {"attention_pool", "tcm", "text_encoder"}
    assert {n.partition(".")[0] for n in report.unexpected} == expected


def test_other_classes_keep_all_but_the_class_predictor() -> None:
    """Fine-tuning on own classes."""
    source = small_detector()
    model = small_detector(
        MODEL__TCM__CLASS_NAMES=["plane", "ship"], MODEL__ROTATED_HEAD__NUM_CLASSES=2
    )
    report = load_weights(model, source.state_dict(), source="dota.pth")
    assert [name for name, _, _ in report.mismatched] == [
        "head.class_predictor.weight",
        "head.class_predictor.bias",
    ]
    assert report.missing == [] and report.unexpected == []
    lateral = model.neck.lateral_convs[2].weight
    assert torch.equal(lateral[:, :256], source.neck.lateral_convs[2].weight[:, :256])
    assert lateral[:, 256:].eq(0).all() and lateral.shape[1] == 258


def test_head_of_another_kind_is_left_out_whole() -> None:
    """RetinaNet's layer 2 is FCOS's layer 2 by name and shape, and another layer by meaning."""
    source, model = small_detector("retinanet"), small_detector("fcos")
    shared = {
        name
        for name, tensor in source.state_dict().items()
        if name.startswith("head.")
        and tensor.shape == model.state_dict().get(name, tensor[:0]).shape
    }
    assert shared  # what would be mixed up
    before = snapshot(model)
    report = load_weights(model, source.state_dict(), source="retinanet.pth")
    assert (
        report.notes[0] == "the file's head is RetinaNet's, the model's FCOS's: head.* not loaded"
    )
    for name in shared:
        assert torch.equal(model.state_dict()[name], before[name]), name
    assert "neck.lateral_convs.0.weight" in report.loaded


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "legacy"])
def test_mmengine_checkpoint_of_a_plain_head(tmp_path: Path, old_format: bool) -> None:
    """As mmrotate's zoo has them; the averaged weights beside them are not taken."""
    model = small_detector("retinanet")
    theirs = {
        "backbone.layer1.0.conv1.weight": torch.ones(8, 8, 1, 1),
        "neck.lateral_convs.2.conv.weight": torch.randn(32, 256, 1, 1),
        "neck.fpn_convs.3.conv.weight": torch.randn(32, 256, 3, 3),
        "neck.fpn_convs.4.conv.bias": torch.randn(32),
        "bbox_head.cls_convs.1.conv.weight": torch.randn(32, 32, 3, 3),
        "bbox_head.retina_cls.bias": torch.randn(135),
        "bbox_head.retina_reg.bias": torch.randn(45),
    }
    before = snapshot(model)
    save_as_mmengine(theirs, tmp_path / "zoo.pth", old_format=old_format)
    SafeCheckpointer(model).load(str(tmp_path / "zoo.pth"), checkpointables=[])
    after = model.state_dict()
    for ours, name in {
        "neck.extra_convs.1.bias": "neck.fpn_convs.4.conv.bias",
        "head.class_tower.2.weight": "bbox_head.cls_convs.1.conv.weight",
        "head.class_predictor.bias": "bbox_head.retina_cls.bias",
        "head.delta_predictor.bias": "bbox_head.retina_reg.bias",
    }.items():
        assert torch.equal(after[ours], theirs[name]), ours
    for ours, name in {
        "neck.lateral_convs.2.weight": "neck.lateral_convs.2.conv.weight",
        "neck.extra_convs.0.weight": "neck.fpn_convs.3.conv.weight",
    }.items():
        assert torch.equal(after[ours][:, :256], theirs[name]), ours
        assert after[ours][:, 256:].eq(0).all()
    # Named and shaped like CLIP's.
    name = "backbone.layer1.0.conv1.weight"
    assert after[name].shape == theirs[name].shape and torch.equal(after[name], before[name])


def test_resuming_needs_a_checkpoint_of_ours(tmp_path: Path) -> None:
    model = small_detector()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    save_as_mmengine(dict(model.state_dict()), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="holds weights but no 'optimizer' state to resume from"):
        SafeCheckpointer(model, optimizer=optimizer).load(str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("names", "looks_like"),
    [
        (["visual.class_embedding", "visual.proj", "logit_scale"], "CLIP with a ViT image tower"),
        (
            ["backbone.bottom_up.stem.conv1.weight", "proposal_generator.a"],
            "a Detectron2 two-stage",
        ),
        (["backbone.conv1.weight", "rpn_head.a", "roi_head.b"], "an mmdetection or mmrotate two"),
        (["layer1.0.conv1.weight", "fc.weight"], "an image ResNet, not CLIP"),
        (["model.0.conv.weight"], "a YOLO detector"),
        (["weight_a", "weight_b"], "something unknown .2 tensors, the first 'weight_a'"),
        # Batch counters fit any model and say nothing.
        (["backbone.bn1.num_batches_tracked"], "something unknown"),
    ],
)
def test_files_that_fit_nothing(detector: nn.Module, names: list[str], looks_like: str) -> None:
    tensors = {n: torch.zeros(() if n.endswith("tracked") else (1, 2, 3)) for n in names}
    with pytest.raises(ValueError, match=rf"'w\.pth': fits nothing.*it looks like {looks_like}"):
        load_weights(detector, tensors, source="w.pth")


def test_log_level_says_whether_it_is_complete(
    detector: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    state = snapshot(detector)
    with caplog.at_level(logging.INFO, logger="tcm_d2.checkpoint"):
        load_weights(detector, state, source="w.pth")
        state.pop("tcm.context")
        load_weights(detector, state, source="w.pth")
    assert [r.levelno for r in caplog.records] == [logging.INFO, logging.WARNING]
