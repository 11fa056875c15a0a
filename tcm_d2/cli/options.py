"""One vocabulary for the options of all tools; words of earlier releases go on working.

==================  =============================================
--images            image files or folders
--labels            folders of label files
--detections        result files: a folder, a zip, an npz
--classes           class names in label order
--weights           of a detector
--config-file       of a detector, .yaml or .py
--output            file or folder to write
--score-threshold   lower scores are left out
--iou-threshold     a match, or a duplicate, needs an IoU above it
==================  =============================================
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence


def parse_options(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    *,
    old_words: Mapping[str, str],
) -> argparse.Namespace:
    """Return the parsed command line.

    Args:
        arguments: None takes those of the process.
        old_words: an option's word of earlier releases, which no help shows -> today's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    for position, text in enumerate(given[:end]):
        word, sign, value = text.partition("=")
        if word in old_words:
            given[position] = f"{old_words[word]}{sign}{value}"
    return parser.parse_args(given)
