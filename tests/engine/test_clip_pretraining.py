"""Pre-training of a small CLIP: it learns, goes on where it stopped, and its file is a CLIP's."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tcm_d2.engine import clip_pretraining
from tcm_d2.engine.clip_pretraining import SmallCLIP, contrastive_loss, token_ids, train
from tcm_d2.modeling.backbone.clip_resnet import build_clip_resnet
from tcm_d2.modeling.clip.towers import take_text_side
from tcm_d2.synthetic.captioned_crops import CaptionedScene, CropSampler, render_scene
from tests.modeling.small_clip import SMALL_CLIP

SCENES = [render_scene(5, 0, index) for index in (0, 2, 4)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_pretraining, "BATCHES", ((6, 96),))
    monkeypatch.setattr(clip_pretraining, "SAVE_PERIOD", 2)


def make_model(scenes: list[CaptionedScene] = SCENES) -> SmallCLIP:
    torch.manual_seed(0)
    return SmallCLIP(token_ids(scenes))


def test_loss_of_a_drawn_case() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, -1.0]])
    is_pair = torch.tensor([[True, False, False], [False, True, False]])
    is_true = torch.tensor([[True, True, False], [False, True, False]])
    # The second place is true of the first text: no negative. The third has no text of its own.
    rows = [torch.tensor([2.0, 0.0]), torch.tensor([3.0, 0.0, -1.0])]
    columns = [torch.tensor([2.0, 0.0]), torch.tensor([3.0])]
    zero = torch.tensor([0])
    expected = [
        torch.stack([F.cross_entropy(values[None], zero) for values in part]).mean()
        for part in (rows, columns)
    ]
    found = contrastive_loss(logits, is_pair, is_true)
    torch.testing.assert_close(found, sum(expected) / 2)


def test_an_interrupted_training_goes_on_to_the_same_weights(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, path = CropSampler(SCENES), tmp_path / "checkpoint.pth"
    whole = make_model()
    train(whole, sampler, tmp_path / "whole.pth", num_iterations=4, seed=1)
    draw, draws = CropSampler.draw, itertools.count(1)

    def stop_at_the_third(self: CropSampler, rng: np.random.Generator, **sizes: int) -> object:
        if next(draws) == 3:
            raise KeyboardInterrupt
        return draw(self, rng, **sizes)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CropSampler, "draw", stop_at_the_third)
        train(make_model(), sampler, path, num_iterations=4, seed=1)
    again = make_model()
    train(again, sampler, path, num_iterations=4, seed=1)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    with pytest.raises(ValueError, match="belongs to a run of 4 iterations, not 5"):
        train(make_model(), sampler, path, num_iterations=5, seed=1)


def test_the_file_is_a_clip_with_the_rows_of_known_words(tmp_path: Path) -> None:
    model = make_model()
    path = tmp_path / "clip.safetensors"
    path.write_bytes(model.file_content())
    sizes = dict(embed_dim=64, vision_width=16, text_layers=1, context_length=16)
    arguments = {**SMALL_CLIP, **sizes, "position_image_size_px": 256, "weights": str(path)}
    side = take_text_side(build_clip_resnet(**arguments), is_needed=True)
    loaded = side.clip.token_embedding.weight
    assert loaded.shape == (49408, 64)
    torch.testing.assert_close(
        loaded[model.token_ids], model.clip.token_embedding.weight, rtol=1e-3, atol=1e-4
    )
    assert int((loaded != 0).any(1).sum()) == len(model.token_ids)
