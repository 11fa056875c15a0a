"""CLIP weights and towers: read a file safely, build the towers, put the one into the other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor

from tcm_d2.modeling.backbone.clip_resnet import CLIPResNet
from tcm_d2.modeling.clip.attention_pool import DenseAttentionPool, resize_positional_embedding
from tcm_d2.modeling.clip.text import PromptedTextEncoder, tokenize_prompts
from tcm_d2.weight_files.description import CLIP_MARKER, describe_tensors
from tcm_d2.weight_files.reading import read_weight_file
from tcm_d2.weight_files.unpickling import is_torchscript

logger = logging.getLogger(__name__)

CUSTOM_NAME = "custom"
# The image tower's coarsest stride.
GRID_STRIDE_PX = 32
POOL_PREFIX = "visual.attnpool."
POSITION_NAME = "visual.attnpool.positional_embedding"
TEXT_POSITION_NAME = "positional_embedding"
# In CLIP files, of no use to a detector.
UNUSED_NAMES = {
    "logit_scale",
    "logit_bias",
    "attn_mask",
    "input_resolution",
    "context_length",
    "vocab_size",
}
_NEXT_STEP = (
    "give an OpenAI archive such as RN50.pt, an OpenCLIP checkpoint of a ResNet model, or the "
    "state dict of one"
)


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """What the CLIP towers are built from.

    Attributes:
        name: an open_clip architecture with a ResNet image tower, or "custom".
        weights: file with the weights of a whole CLIP model; "" keeps random ones.
        embed_dim: joint width C; this and the next six are read only with "custom".
        vision_layers: blocks of the four stages.
        vision_width: channels of the stem; even.
        text_width: token width D.
        text_heads: attention heads of the text tower.
        text_layers: its layers.
        vocab_size: rows of its token embedding.
        context_length: its positions; must be the named architecture's own.
        position_image_size_px: image side for whose stride-32 grid the positional embedding is
            stored.
        norm: "BN", "FrozenBN" or "SyncBN".
        with_text: False leaves out the attention pool and the text tower.
        class_prompts: text of each class; read only with ``with_text``, as is the next.
        tokens_per_class: N1, token ids kept per class, start and end included.
    """

    name: str
    weights: str
    embed_dim: int
    vision_layers: Sequence[int]
    vision_width: int
    text_width: int
    text_heads: int
    text_layers: int
    vocab_size: int
    context_length: int
    position_image_size_px: int
    norm: str
    with_text: bool
    class_prompts: Sequence[str]
    tokens_per_class: int


class CLIPTowers(NamedTuple):
    """The towers of one CLIP model, and the widths that what is built on them needs.

    Attributes:
        image: the ResNet.
        attention_pool: None without text.
        text: None without text.
        embed_dim: joint width C.
        text_width: token width D.
        num_context: N2, context vectors that fill the text sequence; 0 without text.
    """

    image: CLIPResNet
    attention_pool: DenseAttentionPool | None
    text: PromptedTextEncoder | None
    embed_dim: int
    text_width: int
    num_context: int


def build_clip_towers(config: CLIPConfig) -> CLIPTowers:
    """Build CLIP with open_clip, read its weights if any, and take it apart.

    Raises:
        FileNotFoundError: the weights file is missing.
        ValueError: the architecture is unknown or has no ResNet, a size or prompt doesn't fit, or
            the weights are unreadable or another model's.
    """
    if config.with_text and not 2 <= config.tokens_per_class < config.context_length:
        raise ValueError(
            f"tokens per class: expected 2 to {config.context_length - 1} (below the context "
            f"length), got {config.tokens_per_class}; set MODEL.TCM.TOKENS_PER_CLASS"
        )
    clip = _build_clip(config)
    if config.weights:
        state_dict = read_clip_state_dict(config.weights)
        load_clip_weights(clip, state_dict, source=config.weights, with_text=config.with_text)
    embed_dim, text_width = clip.text_projection.shape[1], clip.token_embedding.embedding_dim
    attention_pool, text = None, None
    if config.with_text:
        attention_pool = DenseAttentionPool(clip.visual.attnpool)
        token_ids = tokenize_prompts(
            config.class_prompts,
            tokens_per_class=config.tokens_per_class,
            vocab_size=clip.vocab_size,
        )
        text = PromptedTextEncoder(clip, token_ids)
    return CLIPTowers(
        image=CLIPResNet(clip.visual, norm=config.norm),
        attention_pool=attention_pool,
        text=text,
        embed_dim=embed_dim,
        text_width=text_width,
        num_context=0 if text is None else text.num_context,
    )


def _build_clip(config: CLIPConfig) -> CLIP:
    """Return a CLIP model with random weights for the run's positional grid."""
    if config.position_image_size_px < GRID_STRIDE_PX or (
        config.position_image_size_px % GRID_STRIDE_PX
    ):
        raise ValueError(
            f"position image size: expected a positive multiple of {GRID_STRIDE_PX} px, got "
            f"{config.position_image_size_px}; set MODEL.CLIP.POSITION_IMAGE_SIZE_PX"
        )
    spec = _custom_spec(config) if config.name == CUSTOM_NAME else _named_spec(config)
    vision_cfg = {**spec["vision_cfg"], "image_size": config.position_image_size_px}
    quick_gelu = spec.get("quick_gelu", False)
    if config.weights and not quick_gelu and _is_openai_archive(config.weights):
        logger.warning(
            "%s: an OpenAI archive was trained with QuickGELU, which %s has not; set "
            "MODEL.CLIP.NAME to %s-quickgelu",
            *(config.weights, config.name, config.name),
        )
    clip = CLIP(spec["embed_dim"], vision_cfg, spec["text_cfg"], quick_gelu=quick_gelu)
    assert isinstance(clip.visual, ModifiedResNet)
    return clip


def _custom_spec(config: CLIPConfig) -> dict[str, Any]:
    """Return open_clip's description of an architecture given by numbers."""
    if len(config.vision_layers) != 4 or config.vision_width % 2:
        raise ValueError(
            "custom CLIP: expected four stages and an even width, got stages "
            f"{list(config.vision_layers)} and width {config.vision_width}; set "
            "MODEL.CLIP.VISION_LAYERS and VISION_WIDTH"
        )
    if config.text_width % config.text_heads:
        raise ValueError(
            f"custom CLIP: expected a text width divisible by its {config.text_heads} heads, got "
            f"{config.text_width}; set MODEL.CLIP.TEXT_WIDTH or TEXT_HEADS"
        )
    return {
        "embed_dim": config.embed_dim,
        "vision_cfg": {"layers": list(config.vision_layers), "width": config.vision_width},
        "text_cfg": {
            "context_length": config.context_length,
            "vocab_size": config.vocab_size,
            "width": config.text_width,
            "heads": config.text_heads,
            "layers": config.text_layers,
        },
        # As in all of OpenAI's models, which this keeps the shape of.
        "quick_gelu": True,
    }


def _named_spec(config: CLIPConfig) -> dict[str, Any]:
    """Return open_clip's description of one of its own ResNet architectures."""
    # A hub name would be downloaded; only what ships with open_clip is known here.
    known = open_clip.list_models()
    spec = open_clip.get_model_config(config.name) if config.name in known else None
    if spec is None or not isinstance(spec["vision_cfg"].get("layers"), list):
        resnets = ", ".join(name for name in known if name.startswith("RN"))
        raise ValueError(
            f"CLIP architecture: expected one with a ResNet image tower ({resnets}, or "
            f"{CUSTOM_NAME!r}), got {config.name!r}; set MODEL.CLIP.NAME"
        )
    if spec["text_cfg"]["context_length"] != config.context_length:
        raise ValueError(
            f"context length: expected {spec['text_cfg']['context_length']} ({config.name}), got "
            f"{config.context_length}; set MODEL.CLIP.CONTEXT_LENGTH"
        )
    return spec


def _is_openai_archive(weights: str) -> bool:
    """Return whether a weights file is in the format that OpenAI publishes."""
    path = Path(weights).expanduser()
    return path.is_file() and is_torchscript(path)


def load_clip_weights(
    clip: CLIP, state_dict: Mapping[str, Tensor], *, source: str, with_text: bool
) -> None:
    """Copy weights into ``clip``; positional embeddings are resized (image) or cut (text) to fit.

    Every tensor that the detector uses must be there. Tensors of no use here are left out: the
    known ones silently, others with a warning that names them.

    Args:
        clip: the model to fill, in place.
        state_dict: tensors by CLIP's names, from ``read_clip_state_dict``.
        source: where they come from, for messages.
        with_text: whether the attention pool and the text tower are used.

    Raises:
        ValueError: tensors are missing or have another shape.
    """
    own = clip.state_dict()
    weights = dict(state_dict)
    grid_side = clip.visual.image_size // GRID_STRIDE_PX
    if POSITION_NAME in weights and weights[POSITION_NAME].shape[0] != own[POSITION_NAME].shape[0]:
        weights[POSITION_NAME] = resize_positional_embedding(
            weights[POSITION_NAME], (grid_side, grid_side)
        )

    def is_used(name: str) -> bool:
        # OpenAI's archives may lack the batch counters, which nothing reads.
        if name in UNUSED_NAMES or name.endswith("num_batches_tracked"):
            return False
        return with_text or (name.startswith("visual.") and not name.startswith(POOL_PREFIX))

    missing = sorted(n for n in own if is_used(n) and n not in weights)
    misshapen = sorted(
        n
        for n in own.keys() & weights.keys() - {TEXT_POSITION_NAME}
        if is_used(n) and own[n].shape != weights[n].shape
    )
    if missing or misshapen:
        raise ValueError(
            f"weights '{source}': expected those of {describe_tensors(own)}, got "
            f"{describe_tensors(weights)}; {_list_names('missing', missing)}"
            f"{_list_names('of another shape', misshapen)}set MODEL.CLIP.NAME to the file's "
            f"architecture, or {_NEXT_STEP}"
        )
    if with_text:
        weights[TEXT_POSITION_NAME] = first_text_positions(
            weights[TEXT_POSITION_NAME], len(own[TEXT_POSITION_NAME])
        )
    unexpected = sorted(n for n in weights if n not in own and n not in UNUSED_NAMES)
    if unexpected:
        logger.warning("%s: %snot loaded", source, _list_names("unknown tensors", unexpected))
    fitting = {n: w for n, w in weights.items() if n in own and own[n].shape == w.shape}
    clip.load_state_dict(fitting, strict=False)
    logger.info("%s: loaded %d tensors (%s)", source, len(fitting), describe_tensors(weights))


def first_text_positions(embedding: Tensor, num_positions: int) -> Tensor:
    """Return the first rows of a text tower's positional embedding; they are causal, so that holds.

    Args:
        embedding: (positions in the file, D).
        num_positions: how many the model has.

    Raises:
        ValueError: there are fewer in the file.
    """
    if len(embedding) < num_positions:
        raise ValueError(
            f"text positional embedding: expected at least {num_positions} positions, got "
            f"{len(embedding)}; give weights of that context length, or set MODEL.CLIP.NAME "
            f"'{CUSTOM_NAME}' and MODEL.CLIP.CONTEXT_LENGTH {len(embedding)}"
        )
    return embedding[:num_positions]


def _list_names(what: str, names: list[str]) -> str:
    """Return a clause that counts names and shows the first few; "" for none."""
    if not names:
        return ""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {what} ({shown}); "


def read_clip_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a CLIP model's weights from a file without executing anything in it.

    Accepts OpenAI's TorchScript archives, OpenCLIP checkpoints (``.pt``, ``.bin``,
    ``.safetensors``) and plain state dicts, also wrapped in ``state_dict`` or by data-parallel
    prefixes. Floating point is converted to float32.

    Args:
        path: the file.

    Returns:
        Tensors by CLIP's names, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds code, or is no CLIP model with a ResNet image tower.
    """
    try:
        tensors = read_weight_file(path).tensors
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; {_NEXT_STEP}") from None
    if CLIP_MARKER not in tensors:
        hint = " (pass it as MODEL.WEIGHTS)" if "backbone" in "".join(tensors) else ""
        raise ValueError(
            f"weights '{path}': expected a CLIP model with a ResNet image tower, got "
            f"{describe_tensors(tensors)}{hint}; {_NEXT_STEP}"
        )
    return {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
