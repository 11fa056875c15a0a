"""What became of every tensor of a file and of a model, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tabulate import tabulate

from tcm_d2.messages import MAX_NAMES_SHOWN, some_names

# Characters after which the names of a row go on in the next line.
NAMES_WIDTH = 80

Shape = tuple[int, ...]


class Reshaped(NamedTuple):
    """A tensor that was given another shape, and how."""

    name: str
    from_shape: Shape
    to_shape: Shape
    how: str

    def __str__(self) -> str:
        return f"{self.name} {self.from_shape} -> {self.to_shape}, {self.how}"


class LoadReport(NamedTuple):
    """What became of each tensor of a file and of the model.

    Each tensor of the file is in one of ``loaded``, ``unexpected``, ``mismatched`` and ``dead``;
    each of the model in one of ``loaded``, ``missing`` and ``mismatched``.

    Attributes:
        loaded: names copied into the model, those of ``reshaped`` included.
        missing: names of parameters and buffers of the model that the file does not give.
        unexpected: names in the file that the model does not take; those of parts left out whole
            (see ``notes``) are missing too.
        mismatched: (name, shape in the file, shape in the model); the model's value stays.
        converted_from: "" for our own names, else what the names were.
        reshaped: those given another shape on the way.
        dead: names in the file of what the detector never uses: the published models' prompt
            generator, CLIP's temperature, batch counters of a frozen normalisation.
        notes: what else is to be known, one sentence each.
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[tuple[str, Shape, Shape]]
    converted_from: str
    reshaped: list[Reshaped]
    dead: list[str]
    notes: list[str]

    @property
    def is_complete(self) -> bool:
        """Whether the whole model came from the file and nothing but dead tensors was left."""
        return not (self.missing or self.unexpected or self.mismatched)

    def as_table(self) -> str:
        """Return the report as text: a row for each fate, a few names per row, then the notes."""
        shapes = [f"{name} {theirs} -> {ours}" for name, theirs, ours in self.mismatched]
        return report_table(
            [
                ("loaded", len(self.loaded), names_by_first_part(self.loaded)),
                ("of these reshaped", len(self.reshaped), some_names(self.reshaped, "; ")),
                ("missing", len(self.missing), names_by_first_part(self.missing)),
                ("unexpected", len(self.unexpected), names_by_first_part(self.unexpected)),
                ("other shape, not loaded", len(shapes), some_names(shapes, "; ")),
                ("dead", len(self.dead), names_by_first_part(self.dead)),
            ],
            self.notes,
        )


def report_table(rows: Sequence[tuple[str, int, str]], notes: Iterable[str]) -> str:
    """Return rows of (fate, number, names) as text, and below them the notes."""
    table = tabulate(
        rows,
        ["tensors", "number", "names"],
        tablefmt="simple",
        disable_numparse=True,
        maxcolwidths=[None, None, NAMES_WIDTH],
    )
    return "\n".join([table, *(f"note: {note}" for note in notes)])


def names_by_first_part(names: Sequence[str]) -> str:
    """Return a few names, or how many there are below each first part where they are many."""
    if len(names) <= MAX_NAMES_SHOWN:
        return ", ".join(names)
    counts = Counter(name.partition(".")[0] for name in names)
    return some_names(
        [
            f"{name.partition('.')[0]}.* ({n})" if n > 1 else name
            for name in names
            if (n := counts.pop(name.partition(".")[0], 0))
        ]
    )
