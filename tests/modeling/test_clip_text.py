from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tcm_d2.modeling.clip.text import format_prompts, tokenize_prompts
from tests.modeling.small_clip import PROMPTS, TEXT, small_towers

TOKEN_WIDTH, JOINT_WIDTH, NUM_CONTEXT = 64, 48, 12


@pytest.fixture
def text():
    return small_towers().text


def make_context() -> torch.Tensor:
    return torch.randn(NUM_CONTEXT, TOKEN_WIDTH, requires_grad=True)


def test_shapes(text) -> None:
    assert text.num_context == NUM_CONTEXT
    assert text(make_context(), None).shape == (3, JOINT_WIDTH)
    assert text(make_context(), torch.randn(2, TOKEN_WIDTH)).shape == (2, 3, JOINT_WIDTH)


def test_tower_is_frozen_and_gradient_reaches_context_and_prompt(text) -> None:
    assert not any(p.requires_grad for p in text.parameters())
    for mode in (True, False):
        text.train(mode)
        context, prompt = make_context(), torch.randn(2, TOKEN_WIDTH, requires_grad=True)
        text(context, prompt).pow(2).sum().backward()
        assert (context.grad.abs().amax(dim=1) > 0).all()
        assert (prompt.grad.abs().amax(dim=1) > 0).all()


def test_train_and_eval_agree(text) -> None:
    context = make_context()
    with torch.no_grad():
        trained, evaluated = text.train()(context, None), text.eval()(context, None)
        assert torch.equal(evaluated, text(context, None))
    torch.testing.assert_close(trained, evaluated, rtol=1e-4, atol=1e-5)


def test_zero_image_prompt_changes_nothing(text) -> None:
    context = make_context()
    with torch.no_grad():
        plain = text(context, None)
        prompted = text(context, torch.zeros(2, TOKEN_WIDTH))
        other = text(context, torch.randn(2, TOKEN_WIDTH))
    torch.testing.assert_close(prompted, plain.expand(2, -1, -1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other[0], other[1])


def test_images_of_a_batch_do_not_mix(text) -> None:
    context, prompts = make_context(), torch.randn(3, TOKEN_WIDTH)
    with torch.no_grad():
        together = text(context, prompts)
        alone = torch.cat([text(context, prompt[None]) for prompt in prompts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_padding_after_end_of_text_is_not_seen(text) -> None:
    context = make_context()
    with torch.no_grad():
        before = text(context, None)
        text.class_token_ids[0, 3:] = 123  # "plane" ends at index 2
        after = text(context, None)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)


def test_equals_open_clips_own_encoding_without_context() -> None:
    """With the sequence start, no context, rest, the feature is open_clip's for the same ids."""
    import open_clip
    from open_clip.model import CLIP

    from tcm_d2.modeling.clip.text import PromptedTextEncoder

    text_cfg = dict(context_length=8, vocab_size=49408, width=64, heads=1, layers=2)
    vision_cfg = dict(layers=[1, 1, 1, 1], width=8, image_size=64)
    clip = CLIP(48, vision_cfg, text_cfg, quick_gelu=True).eval()
    ids = open_clip.SimpleTokenizer()(PROMPTS, context_length=8)
    with torch.no_grad():
        expected = clip.encode_text(ids)
        actual = PromptedTextEncoder(clip, ids)(torch.empty(0, 64), None)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_token_ids_are_not_in_the_state_dict(text) -> None:
    names = set(text.state_dict())
    assert "token_embedding.weight" in names and "ln_final.weight" in names
    assert "class_token_ids" not in names


def test_name_that_does_not_fit_is_named_with_the_length_it_needs() -> None:
    with pytest.raises(ValueError, match=r"'ground track field': needs 5 tokens .* to 5 or more"):
        tokenize_prompts(PROMPTS, tokens_per_class=4, vocab_size=49408)
    assert tokenize_prompts(PROMPTS, tokens_per_class=5, vocab_size=49408)[2, -1] == 49407


def test_published_long_template_fits_and_bare_room_does_not() -> None:
    prompts = format_prompts(PROMPTS, "In this aerial photo, a {label} can be found.")
    assert prompts[0] == "In this aerial photo, a plane can be found."
    ids = tokenize_prompts(prompts, tokens_per_class=20, vocab_size=49408)
    assert ids.shape == (3, 20) and (ids == 49407).sum() == 3
    with pytest.raises(ValueError, match="TOKENS_PER_CLASS"):
        tokenize_prompts(prompts, tokens_per_class=8, vocab_size=49408)


def test_template_needs_a_place_for_the_name() -> None:
    with pytest.raises(ValueError, match=r"prompt template: expected text with '\{label\}'"):
        format_prompts(PROMPTS, "an aerial photo")


@pytest.mark.parametrize(
    ("prompts", "vocab_size", "message"),
    [
        ([], 49408, "at least one class"),
        (["plane", "  "], 49408, "expected text, got '  '"),
        (["plane"], 1000, "expected at least 49408"),
    ],
)
def test_unusable_prompts(prompts: list[str], vocab_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenize_prompts(prompts, tokens_per_class=8, vocab_size=vocab_size)


def test_common_beginning_computed_once_equals_whole_sequences(text) -> None:
    """open_clip's transformer over all positions of all classes, with its causal mask."""
    length = NUM_CONTEXT + text.class_token_ids.shape[1]
    mask = torch.full((length, length), -torch.inf).triu(1)
    end_index = text.class_token_ids.argmax(dim=1) + NUM_CONTEXT
    with torch.no_grad():
        for block in text.transformer.resblocks:  # biases start at zero
            block.attn.in_proj_bias.normal_()
        tokens, context = text.token_embedding(text.class_token_ids), make_context().detach()
        parts = [tokens[:, :1], context.expand(3, -1, -1), tokens[:, 1:]]
        sequences = torch.cat(parts, dim=1)
        prompts = torch.randn(2, TOKEN_WIDTH)
        for prompt, actual in zip(
            (None, *prompts), (text(context, None), *text(context, prompts)), strict=True
        ):
            x = sequences if prompt is None else sequences + prompt
            x = text.transformer(x + text.positional_embedding, attn_mask=mask)
            x = text.ln_final(x[torch.arange(3), end_index]) @ text.text_projection
            torch.testing.assert_close(actual, x, rtol=1e-4, atol=1e-5)


def test_context_of_words_reads_like_the_words_themselves() -> None:
    words = replace(TEXT, context_words="a photo of a")
    text = small_towers(text=words).text
    context = text.initial_context()
    assert context is not None and text.num_context == len(context) == 4
    found = text(context, None)
    spelled = replace(TEXT, template="a photo of a {label}", tokens_per_class=12)
    torch.manual_seed(0)
    whole = small_towers(text=spelled).text
    whole.load_state_dict(text.state_dict())
    nothing = torch.empty(0, context.shape[1])
    torch.testing.assert_close(found, whole(nothing, None), rtol=1e-4, atol=1e-5)


def test_more_context_words_than_the_tower_has_room_for_are_refused() -> None:
    words = replace(TEXT, context_words="a photo " * 10)
    with pytest.raises(ValueError, match=r"context words: expected at most 12 tokens .*got 20"):
        small_towers(text=words)
