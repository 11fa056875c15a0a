"""Class names of the DOTA data sets, as their label files write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.messages import near_match_hint

# The order is the one of the published models and of mmrotate, so that label indices agree.
DOTA_V1_CLASSES: tuple[str, ...] = (
    "plane",
    "baseball-diamond",
    "bridge",
    "ground-track-field",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "tennis-court",
    "basketball-court",
    "storage-tank",
    "soccer-ball-field",
    "roundabout",
    "harbor",
    "swimming-pool",
    "helicopter",
)
DOTA_V15_CLASSES: tuple[str, ...] = (*DOTA_V1_CLASSES, "container-crane")
DOTA_V2_CLASSES: tuple[str, ...] = (*DOTA_V15_CLASSES, "airport", "helipad")


# What the command lines take in place of a list of names.
CLASS_LISTS = {
    "dota-v1.0": DOTA_V1_CLASSES,
    "dota-v1.5": DOTA_V15_CLASSES,
    "dota-v2.0": DOTA_V2_CLASSES,
}


# Files that class names are read from.
CLASS_FILE_SUFFIXES = (".yaml", ".yml", ".txt")
_SEPARATORS = re.compile(r"[\s_-]+")


def expand_class_names(names: Sequence[str]) -> list[str]:
    """Return class names as given, or those that a single word stands for.

    Args:
        names: names; or one word: a list of `CLASS_LISTS`, or a file with the names, a YOLO
            ``data.yaml`` or a text with one a line.

    Raises:
        FileNotFoundError, ValueError: the file is not there or cannot be used.
    """
    word = names[0] if len(names) == 1 else ""
    if word.lower() in CLASS_LISTS:
        return list(CLASS_LISTS[word.lower()])
    if word.lower().endswith(CLASS_FILE_SUFFIXES):
        # Not at the top: command lines read this module before they read much else.
        from tcm_d2.data.conversion import read_class_names

        if not Path(word).is_file():
            raise FileNotFoundError(f"classes: '{word}': no such file")
        return names_in_order(read_class_names(word), where=word)
    return list(names)


def names_in_order(classes: dict[int, str], *, where: str) -> list[str]:
    """Return class names by index as a list.

    Raises:
        ValueError: indices are not 0, 1, 2, ... without a gap, or a name is there twice.
    """
    if sorted(classes) != list(range(len(classes))):
        raise ValueError(
            f"{where}: expected names of the indices 0 to {len(classes) - 1}, got "
            f"{', '.join(map(str, sorted(classes)))}"
        )
    names = [classes[index] for index in range(len(classes))]
    keys = [class_key(name) for name in names]
    twice = [name for name in names if keys.count(class_key(name)) > 1]
    if twice:
        raise ValueError(f"{where}: names: expected different ones, got {', '.join(twice)}")
    return names


class ClassSpelling:
    """Finds a class by its name; blanks, ``_`` and ``-`` in names are equal."""

    def __init__(self, classes: Sequence[str]) -> None:
        """Args:
        classes: the names as they are wanted.
        """
        keys = [class_key(name) for name in classes]
        self._by_key = {key: name for key, name in zip(keys, classes) if keys.count(key) == 1}
        self._names = frozenset(classes)

    def find(self, name: str) -> str | None:
        """Return the class as it is wanted; None where there is no such class."""
        return name if name in self._names else self._by_key.get(class_key(name))


def class_key(name: str) -> str:
    """Return what is equal for names that differ in blanks, ``_`` and ``-`` only."""
    return _SEPARATORS.sub("-", name.strip())


def class_name_to_prompt(class_name: str) -> str:
    """Return the words of a label-file name: ``ground-track-field`` -> ``ground track field``."""
    return class_name.replace("-", " ").replace("_", " ")


def describe_unknown_class(class_name: str, classes: Sequence[str]) -> str:
    """Return a sentence that names the class, near matches and what is known."""
    near = near_match_hint(class_name, classes)
    return f"unknown class {class_name!r}{near}; known: {', '.join(classes)}"


def check_classes(
    prompts: Sequence[str],
    thing_classes: Sequence[str],
    *,
    dataset_name: str,
    num_head_classes: int | None,
) -> None:
    """Raise when a model's classes are not those of the data set, in the same order.

    Args:
        prompts: the model's class prompts (``MODEL.TCM.CLASS_NAMES``); words or label-file names.
        thing_classes: the data set's class names, usually
            ``MetadataCatalog.get(dataset_name).thing_classes``.
        dataset_name: only for the message.
        num_head_classes: outputs of the head (``MODEL.ROTATED_HEAD.NUM_CLASSES``), or None to
            skip that comparison.

    Raises:
        ValueError: when the counts or the names differ; says which and what to change.
    """
    wanted = [class_name_to_prompt(name) for name in thing_classes]
    given = [class_name_to_prompt(name) for name in prompts]
    if num_head_classes is not None and num_head_classes != len(wanted):
        raise ValueError(
            f"MODEL.ROTATED_HEAD.NUM_CLASSES: expected {len(wanted)}, the number of classes of "
            f"data set {dataset_name!r} ({', '.join(thing_classes)}), got {num_head_classes}; set "
            f"MODEL.ROTATED_HEAD.NUM_CLASSES {len(wanted)} and MODEL.TCM.CLASS_NAMES to match"
        )
    if len(given) != len(wanted):
        extra = [name for name in given if name not in wanted] or "none"
        missing = [name for name in wanted if name not in given] or "none"
        raise ValueError(
            f"MODEL.TCM.CLASS_NAMES: expected the {len(wanted)} classes of data set "
            f"{dataset_name!r}, got {len(given)} names (not in the data set: {extra}; missing: "
            f"{missing}); set MODEL.TCM.CLASS_NAMES to {wanted}"
        )
    for index, (have, want) in enumerate(zip(given, wanted)):
        if have != want:
            raise ValueError(
                f"MODEL.TCM.CLASS_NAMES[{index}]: expected {want!r} as in data set "
                f"{dataset_name!r}, got {have!r}; the order of the names is the order of the "
                f"label indices: set MODEL.TCM.CLASS_NAMES to {wanted}"
            )
