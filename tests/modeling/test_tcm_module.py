from __future__ import annotations

import pytest
import torch

from tcm_d2.modeling.tcm.tcm import TCM, TCMConfig
from tests.modeling.small_clip import assert_every_parameter_gets_gradient, randomize, small_towers

JOINT_WIDTH, TOKEN_WIDTH, NUM_CONTEXT, NUM_CLASSES = 48, 64, 12, 3


def make_tcm(*, num_context: int = NUM_CONTEXT, **changes: object) -> TCM:
    settings: dict = dict(
        decoder_width=16,
        decoder_heads=4,
        decoder_layers=2,
        decoder_dropout=0.1,
        visual_scale_init=1e-3,
        text_scale_init=1e-4,
        temperature=0.07,
        prompt_generator="none",
        bimodal_matching=False,
        bimodal_matching_init="identity",
    )
    return TCM(
        TCMConfig(**{**settings, **changes}),
        joint_width=JOINT_WIDTH,
        token_width=TOKEN_WIDTH,
        num_context=num_context,
    )


def make_inputs(size_hw: tuple[int, int] = (4, 4)) -> tuple[torch.Tensor, ...]:
    dense = torch.randn(2, JOINT_WIDTH, *size_hw)
    return torch.randn(2, JOINT_WIDTH), dense, torch.randn(NUM_CLASSES, JOINT_WIDTH)


@pytest.mark.parametrize("size_hw", [(4, 4), (10, 7), (1, 1)])
@pytest.mark.parametrize("per_image", [False, True])
def test_shapes(size_hw: tuple[int, int], per_image: bool) -> None:
    global_NC, dense, text = make_inputs(size_hw)
    output = make_tcm()(global_NC, dense, text.expand(2, -1, -1) if per_image else text)
    assert output.score_map_NKHW.shape == (2, NUM_CLASSES, *size_hw)
    assert output.text_NKC.shape == (2, NUM_CLASSES, JOINT_WIDTH)
    assert output.dense_NCHW.shape == dense.shape


def test_text_for_all_images_equals_text_per_image() -> None:
    tcm, (global_NC, dense, text) = make_tcm().eval(), make_inputs()
    shared, repeated = tcm(global_NC, dense, text), tcm(global_NC, dense, text.expand(2, -1, -1))
    assert torch.equal(shared.score_map_NKHW, repeated.score_map_NKHW)


def test_initial_values() -> None:
    tcm = make_tcm(num_context=200)
    assert tcm.visual_scale.shape == () and tcm.visual_scale.item() == pytest.approx(1e-3)
    assert tcm.text_scale.shape == (JOINT_WIDTH,)
    assert torch.allclose(tcm.text_scale, torch.tensor(1e-4))
    assert tcm.context.shape == (200, TOKEN_WIDTH)
    # A unit normal cut at two deviations has a deviation of 0.88.
    assert tcm.context.std().item() == pytest.approx(0.88, abs=0.02)
    assert 1.9 < tcm.context.abs().max() <= 2


def test_zero_scales_match_the_bare_tokens() -> None:
    tcm, (global_NC, dense, text) = (
        make_tcm(visual_scale_init=0.0, text_scale_init=0.0),
        make_inputs(),
    )
    output = tcm(global_NC, dense, text)
    assert torch.equal(output.dense_NCHW, dense) and torch.equal(output.text_NKC[0], text)
    cosine = torch.cosine_similarity(dense[:, None], text[None, :, :, None, None], dim=2)
    torch.testing.assert_close(output.score_map_NKHW, cosine / 0.07, rtol=1e-4, atol=1e-4)


def test_text_update_does_not_see_the_visual_prompt() -> None:
    tcm, inputs = make_tcm().eval(), make_inputs()
    before = tcm(*inputs)
    with torch.no_grad():
        tcm.visual_scale.fill_(5.0)
    after = tcm(*inputs)
    assert torch.equal(after.text_NKC, before.text_NKC)
    assert not torch.allclose(after.dense_NCHW, before.dense_NCHW)


def test_updates_that_are_left_out_leave_tokens_and_embeddings_as_they_are() -> None:
    global_NC, dense, text = make_inputs()
    whole = make_tcm(visual_scale_init=0.5, text_scale_init=0.5).eval()
    for off in ("visual_prompt", "text_update"):
        part = make_tcm(visual_scale_init=0.5, text_scale_init=0.5, **{off: False}).eval()
        missing = part.load_state_dict(whole.state_dict(), strict=False)
        assert not missing.missing_keys and missing.unexpected_keys
        output, full = part(global_NC, dense, text), whole(global_NC, dense, text)
        if off == "visual_prompt":
            assert torch.equal(output.dense_NCHW, dense)
            assert torch.equal(output.text_NKC, full.text_NKC)
        else:
            assert torch.equal(output.text_NKC[0], text)
            assert torch.equal(output.dense_NCHW, full.dense_NCHW)
        output.score_map_NKHW.sum().backward()
        scale = "visual_scale" if off == "visual_prompt" else "text_scale"
        assert not dict(part.named_parameters())[scale].requires_grad


@pytest.mark.parametrize("prompt_generator", ["none", "image", "meta"])
@pytest.mark.parametrize("bimodal", ["", "identity", "ones"])
def test_gradient_reaches_every_parameter(prompt_generator: str, bimodal: str) -> None:
    towers, tcm = (
        small_towers(),
        make_tcm(
            prompt_generator=prompt_generator,
            bimodal_matching=bool(bimodal),
            bimodal_matching_init=bimodal or "identity",
        ),
    )
    assert towers.text.num_context == NUM_CONTEXT
    randomize(tcm)
    tokens = towers.attention_pool(torch.randn(2, 256, 3, 5))
    text = towers.text.encode(tcm, tokens.global_NC)
    assert text.dim() == (3 if prompt_generator == "image" else 2)
    tcm(tokens.global_NC, tokens.dense_NCHW, text).score_map_NKHW.pow(2).sum().backward()
    assert_every_parameter_gets_gradient(tcm)
    assert_every_parameter_gets_gradient(towers.attention_pool, zero_ok="k_proj.bias")


def test_prompt_parts_exist_only_when_used() -> None:
    def own_names(**changes: object) -> set[str]:
        names = {name.split(".")[0] for name in make_tcm(**changes).state_dict()}
        return (
            names
            - {"context", "text_scale", "visual_scale"}
            - {
                "visual_decoder",
                "text_decoder",
            }
        )

    assert own_names() == set()
    assert own_names(prompt_generator="image") == {"prompt_generator"}
    assert own_names(prompt_generator="meta") == {"prompt_generator", "meta_query"}
    assert own_names(bimodal_matching=True) == {"bimodal_matching"}


def test_prompts() -> None:
    tokens = torch.randn(2, JOINT_WIDTH)
    assert make_tcm().text_prompt(tokens) is None
    assert make_tcm(prompt_generator="image").text_prompt(tokens).shape == (2, TOKEN_WIDTH)
    meta = make_tcm(prompt_generator="meta")
    assert torch.equal(meta.text_prompt(tokens), meta.text_prompt(None))
    assert meta.text_prompt(None).shape == (1, TOKEN_WIDTH)
    assert meta.meta_query.shape == (JOINT_WIDTH,) and meta.meta_query.abs().max() > 0


def test_text_is_normalised_for_bimodal_matching_only() -> None:
    text = torch.randn(NUM_CLASSES, JOINT_WIDTH)
    assert make_tcm().prepare_text(text) is text
    lengths = make_tcm(bimodal_matching=True).prepare_text(text).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(NUM_CLASSES))


def test_bimodal_matching_moves_the_text_before_everything_else() -> None:
    tcm, (global_NC, dense, text) = make_tcm(bimodal_matching=True).eval(), make_inputs()
    plain = make_tcm().eval()
    plain.load_state_dict(tcm.state_dict(), strict=False)
    unit = tcm.prepare_text(text)
    moved = tcm.bimodal_matching(unit, global_NC)
    expected = plain(global_NC, dense, moved)
    for ours, theirs in zip(tcm(global_NC, dense, unit), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_only_decoder_norms_have_norm_in_their_names() -> None:
    """The optimizer leaves weight decay out by this word."""
    modules = [*small_towers()[:3], make_tcm(prompt_generator="meta", bimodal_matching=True)]
    names = [n for module in modules for n, _ in module.named_parameters()]
    normed = {n.split(".")[-2] for n in names if "norm" in n}
    assert normed == {"norm1", "norm2", "norm3"}
    assert all("decoder.layers." in n for n in names if "norm" in n)


def test_eval_is_deterministic() -> None:
    tcm, inputs = make_tcm().eval(), make_inputs()
    assert torch.equal(tcm(*inputs).score_map_NKHW, tcm(*inputs).score_map_NKHW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_generator": "text"}, "expected one of none, image, meta, got 'text'"),
        (
            {"bimodal_matching": True, "bimodal_matching_init": "zeros"},
            "expected one of identity, ones, got 'zeros'",
        ),
        ({"temperature": 0.0}, "temperature: expected a positive number, got 0.0"),
    ],
)
def test_unusable_settings(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_tcm(**changes)
