"""CLIP's text tower, the context decoder, positional embedding and auxiliary loss: reference."""

from __future__ import annotations

import pytest
import torch
from open_clip.model import CLIP

from tcm_d2.checkpoint.convert import convert_mmrotate_name
from tcm_d2.modeling.clip.attention_pool import resize_positional_embedding
from tcm_d2.modeling.clip.text import PromptedTextEncoder, tokenize_prompts
from tcm_d2.modeling.tcm.context_decoder import ContextDecoder
from tcm_d2.modeling.tcm.matching import masked_score_map_loss
from tests.conftest import DATA_DIR
from tests.parity.golden import Golden, relative_error

TOLERANCE = 1e-4
CONTEXT_LENGTH, TOKEN_WIDTH, JOINT_WIDTH = 77, 64, 48


@pytest.fixture(scope="module")
def text_golden() -> Golden:
    return Golden(DATA_DIR / "golden" / "g_modules_text.npz")


@pytest.fixture(scope="module")
def decoder_golden() -> Golden:
    return Golden(DATA_DIR / "golden" / "g_modules_decoder.npz")


@pytest.fixture(scope="module")
def loss_golden() -> Golden:
    return Golden(DATA_DIR / "golden" / "g_seg_loss.npz")


def class_names(golden: Golden) -> list[str]:
    return [str(name) for name in golden._arrays["class_names"]]


def make_text_encoder(golden: Golden) -> PromptedTextEncoder:
    text_cfg = dict(
        context_length=CONTEXT_LENGTH, vocab_size=49408, width=TOKEN_WIDTH, heads=1, layers=2
    )
    vision_cfg = dict(layers=[1, 1, 1, 1], width=8, image_size=64)
    clip = CLIP(JOINT_WIDTH, vision_cfg, text_cfg, quick_gelu=True)
    tokens = tokenize_prompts(class_names(golden), tokens_per_class=8, vocab_size=49408)
    encoder = PromptedTextEncoder(clip, tokens)
    embedding = torch.zeros(49408, TOKEN_WIDTH)
    embedding[golden["textenc_token_ids_kept"]] = golden["textenc_token_rows"]
    encoder.load_state_dict({**golden.below("textenc_sd"), "token_embedding.weight": embedding})
    return encoder


def test_token_ids(text_golden: Golden) -> None:
    tokens = tokenize_prompts(class_names(text_golden), tokens_per_class=8, vocab_size=49408)
    assert torch.equal(tokens, text_golden["textenc_tokens"].long())


@pytest.mark.parametrize("training", [False, True])
def test_text_encoder(text_golden: Golden, training: bool) -> None:
    encoder = make_text_encoder(text_golden).train(training)
    with torch.no_grad():
        actual = encoder(text_golden["textenc_contexts"][0], None)
        zero_prompt = encoder(text_golden["textenc_contexts"][0], torch.zeros(2, TOKEN_WIDTH))
    assert relative_error(actual, text_golden["textenc_out"][0]) < TOLERANCE
    assert relative_error(zero_prompt[1], text_golden["textenc_out"][0]) < TOLERANCE


def test_context_decoder(decoder_golden: Golden) -> None:
    decoder = ContextDecoder(
        joint_width=JOINT_WIDTH, width=32, num_heads=4, num_layers=3, dropout=0.1
    ).eval()
    prefix = "tcm.visual_decoder."
    weights = {}
    for name, tensor in decoder_golden.below("ctxdec_sd").items():
        our_name = convert_mmrotate_name(f"vis_context_decoder.{name}", None)
        weights[our_name.removeprefix(prefix)] = tensor
    decoder.load_state_dict(weights)
    text, visual = decoder_golden["ctxdec_text"], decoder_golden["ctxdec_visual"]
    with torch.no_grad():
        actual, swapped = decoder(text, visual), decoder(visual, text)
    assert relative_error(actual, decoder_golden["ctxdec_out"]) < TOLERANCE
    assert relative_error(swapped, decoder_golden["ctxdec_out_swapped_roles"]) < TOLERANCE


@pytest.mark.parametrize("image_size_px", [256, 1024])
def test_positional_embedding(decoder_golden: Golden, image_size_px: int) -> None:
    side = image_size_px // 32
    actual = resize_positional_embedding(decoder_golden["posemb_raw_50"], (side, side))
    assert relative_error(actual, decoder_golden[f"posemb_resized_res{image_size_px}"]) < 1e-6


@pytest.mark.parametrize("case", range(4))
def test_score_map_loss(loss_golden: Golden, case: int) -> None:
    score_map = loss_golden[f"case{case}_score_map"].requires_grad_()
    class_masks = loss_golden[f"case{case}_class_mask"].bool()
    # These object masks are drawn at random and reach beyond the classes' union; those of real
    # boxes are the union (golden h and the whole detector), which score_map_loss makes itself.
    object_masks = loss_golden[f"case{case}_global_mask"].bool()
    assert not (class_masks.any(dim=1) & ~object_masks).any()
    loss = masked_score_map_loss(score_map, class_masks, object_masks)
    loss.backward()
    expected = loss_golden[f"case{case}_loss"].item()
    assert loss.item() == pytest.approx(expected, rel=TOLERANCE, abs=1e-12)
    expected_grad = loss_golden[f"case{case}_grad"]
    if case == 2:  # no object at all
        assert expected == 0 and not score_map.grad.any() and not expected_grad.any()
    else:
        assert relative_error(score_map.grad, expected_grad) < TOLERANCE
