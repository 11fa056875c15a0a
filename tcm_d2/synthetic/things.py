"""What stands in a rendered image, in words: for captions and for classes without labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Thing(NamedTuple):
    """A named thing in an image, labelled or not.

    Attributes:
        name: what it is, in the words of a caption: "school bus".
        color: the word for its main colour, "" where it has none.
        quad: corners (4, 2) in image pixels.
        surroundings: where it stands, in words: "in a parking lot"; "" where nothing is known.
        class_name: its class in the label file, "" for things without a class.
    """

    name: str
    color: str
    quad: np.ndarray
    surroundings: str
    class_name: str
