from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file

from tcm_d2.modeling.backbone.clip_resnet import build_clip_resnet
from tcm_d2.modeling.clip.text import tokenize_prompts
from tcm_d2.modeling.clip.towers import take_text_side
from tcm_d2.modeling.clip.weights import read_clip_state_dict
from tests.modeling.small_clip import PROMPTS, SMALL_CLIP, TEXT, randomize, small_towers

TEXT_CFG = dict(context_length=20, vocab_size=49408, width=64, heads=1, layers=2)


def make_clip(*, grid: int = 2, width: int = 8) -> CLIP:
    vision_cfg = dict(layers=[1, 1, 1, 1], width=width, image_size=32 * grid)
    clip = CLIP(48, vision_cfg, TEXT_CFG, quick_gelu=True).eval()
    randomize(clip)
    return clip


@pytest.fixture(scope="module")
def clip() -> CLIP:
    torch.manual_seed(5)
    return make_clip()


def save_archive(clip: CLIP, path: Path, *, half: bool) -> None:
    """Write a TorchScript archive as OpenAI's: traced, floating point in half precision."""
    example = (torch.zeros(1, 3, 64, 64), torch.zeros(1, 20, dtype=torch.long))
    traced = torch.jit.trace(deepcopy(clip), example, check_trace=False)
    torch.jit.save(traced.half() if half else traced, str(path))


def assert_same_weights(actual: dict, clip: CLIP, *, half: bool = False) -> None:
    for name, expected in clip.state_dict().items():
        if half and expected.is_floating_point():
            expected = expected.half().float()
        assert torch.equal(actual[name], expected), name
        assert actual[name].dtype == expected.dtype, name


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.filterwarnings("ignore")
def test_reads_torchscript_archive_without_running_it(
    clip: CLIP, tmp_path: Path, monkeypatch, half: bool
) -> None:
    path = tmp_path / "RN50.pt"
    save_archive(clip, path, half=half)
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("executes the archive"))
    assert_same_weights(read_clip_state_dict(path), clip, half=half)


def test_rows_of_known_words_are_put_in_their_place(
    clip: CLIP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = tokenize_prompts(PROMPTS[:2], tokens_per_class=8, vocab_size=49408).unique()
    tensors = {name: tensor.contiguous() for name, tensor in clip.state_dict().items()}
    tensors["token_embedding.weight"] = tensors["token_embedding.weight"][ids].contiguous()
    tensors["token_embedding.row_ids"] = ids.int()
    save_file(tensors, tmp_path / "clip.safetensors")
    with caplog.at_level(logging.WARNING):
        towers = small_towers(weights=str(tmp_path / "clip.safetensors"), position_image_size_px=64)
    loaded, whole = towers.text.token_embedding.weight, clip.token_embedding.weight
    assert torch.equal(loaded[ids], whole[ids])
    assert int((loaded != 0).any(1).sum()) == len(ids)
    message = "words of 'ground track field' were not in the captions"
    assert message in caplog.text
    caplog.clear()
    towers.text.set_class_names(PROMPTS[:2], template="{label}")
    assert not caplog.text
    towers.text.set_class_names(["ship"], template="{label}")
    assert "words of 'ship' were not" in caplog.text


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_reads_plain_state_dicts(clip: CLIP, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    if suffix == ".safetensors":
        save_file(clip.state_dict(), path)
    else:
        torch.save(clip.state_dict(), path)
    assert_same_weights(read_clip_state_dict(path), clip)


def test_reads_wrapped_checkpoint(clip: CLIP, tmp_path: Path) -> None:
    state_dict = {f"module.{n}": t for n, t in clip.state_dict().items()}
    content = {"epoch": 3, "name": "run", "state_dict": state_dict, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "epoch_3.pt")
    assert_same_weights(read_clip_state_dict(tmp_path / "epoch_3.pt"), clip)


def test_reads_the_old_format_of_torch_save(clip: CLIP, tmp_path: Path) -> None:
    torch.save(clip.state_dict(), tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    assert_same_weights(read_clip_state_dict(tmp_path / "c.pt"), clip)


def test_loaded_towers_compute_what_clip_computes(clip: CLIP, tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    torch.save(clip.state_dict(), path)
    towers = small_towers(weights=str(path), position_image_size_px=64)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        res5 = towers.image.eval()(images)["res5"]
        actual = towers.attention_pool.eval()(res5).global_NC
        torch.testing.assert_close(actual, clip.encode_image(images), rtol=1e-4, atol=1e-5)
    assert torch.equal(towers.text.token_embedding.weight, clip.token_embedding.weight)


def test_frozen_norm_takes_over_loaded_statistics(clip: CLIP, tmp_path: Path) -> None:
    clip_copy = make_clip()
    clip_copy.visual.bn1.running_mean += 2
    torch.save(clip_copy.state_dict(), tmp_path / "clip.pt")
    towers = small_towers(weights=str(tmp_path / "clip.pt"), norm="FrozenBN")
    assert torch.equal(towers.image.bn1.running_mean, clip_copy.visual.bn1.running_mean)


def test_positional_embedding_is_resized_when_loaded(clip: CLIP, tmp_path: Path) -> None:
    torch.save(clip.state_dict(), tmp_path / "clip.pt")  # a 2 x 2 grid
    pool = small_towers(weights=str(tmp_path / "clip.pt")).attention_pool  # a 4 x 4 grid
    assert pool.positional_embedding.shape == (17, 256)
    assert torch.equal(pool.positional_embedding[0], clip.visual.attnpool.positional_embedding[0])


def test_an_image_tower_alone_asks_for_no_weights_of_the_text_side(
    clip: CLIP, tmp_path: Path
) -> None:
    visual = {n: t for n, t in clip.state_dict().items() if n.startswith("visual.")}
    torch.save(visual, tmp_path / "visual.pt")
    image = build_clip_resnet(**{**SMALL_CLIP, "weights": str(tmp_path / "visual.pt")})
    assert torch.equal(image.conv1.weight, clip.visual.conv1.weight)
    assert not any(name.startswith(("attnpool", "token")) for name in image.state_dict())
    with pytest.raises(ValueError, match="missing"):
        take_text_side(image, is_needed=True)


def test_unknown_tensors_are_named_in_a_warning(clip: CLIP, tmp_path: Path, caplog) -> None:
    state_dict = {**clip.state_dict(), "input_resolution": torch.tensor(64), "extra": torch.ones(1)}
    torch.save(state_dict, tmp_path / "clip.pt")
    with caplog.at_level(logging.WARNING):
        small_towers(weights=str(tmp_path / "clip.pt"))
    assert "1 unknown tensors (extra)" in caplog.text
    assert "input_resolution" not in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_archive_with_plain_gelu_architecture_warns(tmp_path: Path, caplog) -> None:
    save_archive(make_clip(), tmp_path / "RN50.pt", half=False)
    settings = dict(name="RN50", context_length=77, weights=str(tmp_path / "RN50.pt"))
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="expected those of"):
        with torch.device("meta"):
            build_clip_resnet(**{**SMALL_CLIP, **settings})
    assert "set MODEL.CLIP.NAME to RN50-quickgelu" in caplog.text


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"RN50\.pt': no such file; give an OpenAI archive"):
        read_clip_state_dict(tmp_path / "RN50.pt")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["visual.class_embedding", "visual.proj"], "got CLIP with a ViT image tower"),
        (["visual.trunk.stem.weight"], "got CLIP with a timm image tower"),
        (["layer1.0.conv1.weight", "fc.weight"], "got an image ResNet, not CLIP"),
        (["backbone.visual.conv1.weight"], "got a TCM detector in mmrotate's names"),
        (
            ["backbone.layer1.0.conv1.weight"],
            r"got a detector with a ResNet.*\(pass it as MODEL.WEIGHTS\)",
        ),
        (["something"], "got something unknown"),
    ],
)
def test_other_models_are_recognised(tmp_path: Path, names: list[str], message: str) -> None:
    torch.save({name: torch.ones(1) for name in names}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=message):
        read_clip_state_dict(tmp_path / "other.pt")


def test_clip_of_another_width_is_described(tmp_path: Path) -> None:
    torch.save(make_clip(width=16).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(ValueError, match=r"expected those of .*width 8.*got .*width 16.*shape"):
        small_towers(weights=str(tmp_path / "wide.pt"))


def test_missing_tensors_are_counted(clip: CLIP, tmp_path: Path) -> None:
    state_dict = clip.state_dict()
    del state_dict["ln_final.weight"], state_dict["visual.bn1.num_batches_tracked"]
    torch.save(state_dict, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=r"1 missing \(ln_final.weight\)"):
        small_towers(weights=str(tmp_path / "clip.pt"))


def test_longer_context_is_cut_and_a_shorter_one_refused(clip: CLIP, tmp_path: Path) -> None:
    state_dict = clip.state_dict()
    positions = torch.randn(25, 64)
    torch.save({**state_dict, "positional_embedding": positions}, tmp_path / "long.pt")
    text = small_towers(weights=str(tmp_path / "long.pt")).text
    assert torch.equal(text.positional_embedding, positions[:20])
    torch.save({**state_dict, "positional_embedding": positions[:11]}, tmp_path / "short.pt")
    with pytest.raises(ValueError, match=r"at least 20 positions, got 11.*CONTEXT_LENGTH 11"):
        small_towers(weights=str(tmp_path / "short.pt"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "ViT-B-32"}, "with a ResNet image tower .RN50.*got 'ViT-B-32'"),
        ({"name": "hf-hub:someone/model"}, "got 'hf-hub:someone/model'"),
        ({"name": "RN50-quickgelu"}, "context length: expected 77"),
        ({"position_image_size_px": 100}, "multiple of 32 px, got 100"),
        ({"text": replace(TEXT, tokens_per_class=20)}, "expected 2 to 19"),
        ({"vision_layers": (1, 1, 1)}, "four stages"),
        ({"text_heads": 7}, "divisible by its 7 heads"),
    ],
)
def test_unusable_settings(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_towers(**changes)
