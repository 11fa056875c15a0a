"""CLIP's weights: read a file safely, and put it into a model of open_clip's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from open_clip.model import CLIP
from torch import Tensor

from tcm_d2.modeling.clip.attention_pool import resize_positional_embedding
from tcm_d2.weight_files.description import CLIP_MARKER, describe_tensors
from tcm_d2.weight_files.reading import read_weight_file

logger = logging.getLogger(__name__)

IMAGE_PREFIX, POOL_PREFIX = "visual.", "visual.attnpool."
POSITION_NAME = "visual.attnpool.positional_embedding"
TEXT_POSITION_NAME = "positional_embedding"
TOKEN_NAME, TOKEN_ROWS_NAME = "token_embedding.weight", "token_embedding.row_ids"
# What MODEL.CLIP.WEIGHTS takes besides a path: a small CLIP in this package, pre-trained on
# rendered scenes (docs/weights.md). Of its token embedding it has the rows of words it knows.
EMBEDDED_NAME = "embedded"
EMBEDDED_FILE = Path(__file__).resolve().parents[2] / "pretrained" / "clip_embedded.safetensors"
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


def load_clip_weights(clip: CLIP, state_dict: Mapping[str, Tensor], *, source: str) -> str:
    """Copy weights into ``clip``; positional embeddings are resized (image) or cut (text) to fit.

    Every tensor of the image tower must be there. Tensors of no use to a detector are left out: the
    known ones silently, others with a warning that names them.

    Args:
        clip: the model to fill, in place.
        state_dict: tensors by CLIP's names, from ``read_clip_state_dict``.
        source: where they come from, for messages.

    Returns:
        Why the text side (attention pool and text tower) cannot be used with these weights; "" if
        it can.

    Raises:
        ValueError: tensors of the image tower are missing or have another shape.
    """
    own = clip.state_dict()
    weights = dict(state_dict)
    if TOKEN_ROWS_NAME in weights:
        rows = weights.pop(TOKEN_ROWS_NAME).long()
        known = weights[TOKEN_NAME]
        weights[TOKEN_NAME] = known.new_zeros(len(own[TOKEN_NAME]), known.shape[1])
        weights[TOKEN_NAME][rows] = known
    num_positions = own[POSITION_NAME].shape[0]
    if POSITION_NAME in weights and weights[POSITION_NAME].shape[0] != num_positions:
        side = round((num_positions - 1) ** 0.5)
        weights[POSITION_NAME] = resize_positional_embedding(weights[POSITION_NAME], (side, side))
    if problem := _unusable(own, weights, is_image=True):
        raise ValueError(f"weights '{source}': {problem}")
    problem = _unusable(own, weights, is_image=False)
    if not problem:
        try:
            weights[TEXT_POSITION_NAME] = first_text_positions(
                weights[TEXT_POSITION_NAME], len(own[TEXT_POSITION_NAME])
            )
        except ValueError as error:
            problem = str(error)
    unexpected = sorted(n for n in weights if n not in own and n not in UNUSED_NAMES)
    if unexpected:
        logger.warning("%s: %snot loaded", source, _list_names("unknown tensors", unexpected))
    fitting = {n: w for n, w in weights.items() if n in own and own[n].shape == w.shape}
    clip.load_state_dict(fitting, strict=False)
    logger.info("%s: loaded %d tensors (%s)", source, len(fitting), describe_tensors(weights))
    return f"weights '{source}': {problem}" if problem else ""


def _unusable(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, is_image: bool) -> str:
    """Say what the image tower, or the text side, lacks; "" if nothing."""

    def is_used(name: str) -> bool:
        # OpenAI's archives may lack the batch counters, which nothing reads.
        if name in UNUSED_NAMES or name.endswith("num_batches_tracked"):
            return False
        return is_image == (name.startswith(IMAGE_PREFIX) and not name.startswith(POOL_PREFIX))

    missing = sorted(n for n in own if is_used(n) and n not in weights)
    misshapen = sorted(
        n
        for n in own.keys() & weights.keys() - {TEXT_POSITION_NAME}
        if is_used(n) and own[n].shape != weights[n].shape
    )
    if not missing and not misshapen:
        return ""
    return (
        f"expected those of {describe_tensors(own)}, got {describe_tensors(weights)}; "
        f"{_list_names('missing', missing)}{_list_names('of another shape', misshapen)}set "
        f"MODEL.CLIP.NAME to the file's architecture, or {_NEXT_STEP}"
    )


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
            f"'custom' and MODEL.CLIP.CONTEXT_LENGTH {len(embedding)}"
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
        path: the file, or "embedded" for the one in this package.

    Returns:
        Tensors by CLIP's names, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds code, or is no CLIP model with a ResNet image tower.
    """
    if str(path) == EMBEDDED_NAME and not Path(path).exists():
        path = EMBEDDED_FILE
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
