"""Class embeddings as constants: a detector for inference alone, without a text tower.

Shape letters: K classes, C joint width, N1 token ids kept per class.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tcm_d2.modeling.class_text import ClassText, check_text_is_the_same_for_all_images
from tcm_d2.modeling.clip.text import decode_prompts
from tcm_d2.modeling.tcm.tcm import TCM

# Where the state dict holds the constants of `FixedClassText`.
FIXED_TEXT_NAMES = ("text_encoder.features", "text_encoder.class_token_ids")
FIXED_TEXT_MESSAGE = (
    "this model holds its text features as constants and has no text tower: it is made for "
    "inference; train from the checkpoint that it was made from"
)


class FixedClassText(nn.Module):
    """Class embeddings that were computed once, in the place of the tower that made them.

    Attributes:
        features: (K, C), in the state dict.
        class_token_ids: int64 (K, N1), in the state dict: what the classes are called.
    """

    trained_prompts: tuple[str, ...] = ()
    features: Tensor
    class_token_ids: Tensor

    def __init__(self, features: Tensor, class_token_ids: Tensor) -> None:
        """Args:
        features: (K, C), as TCM takes them.
        class_token_ids: int64 (K, N1), from ``tokenize_prompts``.
        """
        super().__init__()
        self.register_buffer("features", features.detach().clone())
        self.register_buffer("class_token_ids", class_token_ids.detach().clone())

    def embeddings(self, tcm: TCM) -> Tensor:
        """Return the class embeddings (K, C)."""
        return self.features

    def set_class_names(self, class_names: Sequence[str], *, template: str) -> None:
        """Raise ValueError: constants have no tower that could read names."""
        raise ValueError(
            "class names: this model holds the text features of its classes as constants and "
            "has no text tower to read others; use the checkpoint that it was made from"
        )


def fix_class_text(
    text: ClassText | FixedClassText,
    tcm: TCM,
    features: Tensor | None = None,
    class_token_ids: Tensor | None = None,
) -> FixedClassText:
    """Return the class embeddings as constants; ``tcm`` drops what only serves to make them.

    Args:
        text: what they are made of, in evaluation mode.
        tcm: changed in place.
        features: (K, C) to hold, as a state dict has them; None takes those of ``text``.
        class_token_ids: int64 (K, N1), of which classes they are; goes with ``features``.

    Raises:
        ValueError: prompts depend on the image, or the features are of another shape or of other
            classes.
    """
    check_text_is_the_same_for_all_images(tcm)
    if features is None or class_token_ids is None:
        features, class_token_ids = text.embeddings(tcm), text.class_token_ids
    shape = (len(text.class_token_ids), len(tcm.text_scale))
    if tuple(features.shape) != shape:
        raise ValueError(
            f"fixed text: expected features of {shape[0]} classes and width {shape[1]}, got "
            f"shape {tuple(features.shape)}; is the configuration the one it was trained with?"
        )
    names, own_names = decode_prompts(class_token_ids), decode_prompts(text.class_token_ids)
    if names != own_names:
        raise ValueError(
            f"class prompts: the text features are constants, made for {', '.join(names)}, and "
            f"cannot become those of {', '.join(own_names)}; set MODEL.TCM.CLASS_NAMES and "
            "PROMPT_TEMPLATE to the former, or use the checkpoint that they were made from"
        )
    tcm.drop_text_parts()
    fixed = FixedClassText(features.to(tcm.text_scale), class_token_ids)
    return fixed.to(tcm.text_scale.device).eval()
