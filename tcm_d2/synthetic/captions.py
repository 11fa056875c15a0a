"""What a rendered picture shows, in captions: things, numbers, colours and surroundings.

A caption comes with what it says, so that one can tell which other pictures it is true of: in a
batch of pictures with few kinds of things, many captions fit several of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tcm_d2.data.dota.classes import class_name_to_prompt
from tcm_d2.synthetic.render import RenderedImage
from tcm_d2.synthetic.things import Thing

# Other words for the labelled classes, where things have no name of their own.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "plane": ("airplane", "aircraft"),
    "baseball-diamond": ("baseball field",),
    "bridge": (),
    "ground-track-field": ("running track", "athletics track"),
    "small-vehicle": ("car",),
    "large-vehicle": ("truck", "lorry"),
    "ship": ("boat", "vessel"),
    "tennis-court": (),
    "basketball-court": (),
    "storage-tank": ("oil tank", "tank"),
    "soccer-ball-field": ("soccer field", "football pitch"),
    "roundabout": ("traffic circle",),
    "harbor": ("pier", "dock"),
    "swimming-pool": ("pool",),
    "helicopter": (),
}
# Where the things of a scene of the plain renderer are.
_PLACES: dict[str, str] = {
    "sports": "at a sports ground",
    "marina": "in a marina",
    "suburb": "in a suburb",
    "airport": "at an airport",
    "canals": "by a canal",
    "parking": "in a parking lot",
    "heliport": "at a heliport",
    "tanks": "at a tank farm",
    "port": "in a port",
}
_COLORED = ("small-vehicle", "large-vehicle", "ship", "plane", "helicopter", "storage-tank")
_NAMED_COLORS: dict[str, tuple[int, int, int]] = {
    "white": (225, 225, 222), "grey": (140, 142, 144), "black": (38, 38, 42),
    "red": (170, 45, 40), "orange": (205, 105, 40), "yellow": (215, 180, 55),
    "green": (60, 110, 70), "blue": (50, 85, 150), "brown": (110, 76, 56),
}  # fmt: skip
_NUMBERS = ("", "one", "two", "three", "four", "five")
_VAGUE_NUMBERS = ("some", "many", "several")
# Put around what is seen. One of them has the length of the embedded detectors' context.
TEMPLATES = (
    "{}",
    "{} from above",
    "a photo of {}",
    "a satellite photo of {}",
    "an aerial image of {}",
    "a bird's eye view of {}",
    "a satellite photo taken from above of {}",
    "there is {} here",
    "this is {}",
)
DETECTOR_TEMPLATE = "a satellite photo taken from above of a {label}"
# Captions name this many kinds of things at most: the text tower is short.
_MAX_MENTIONS = 2
# Of a caption; some are two tokens, and the embedded text tower has room for 14.
_MAX_WORDS = 11
_PIECE = re.compile(r"[a-z']+|-")


class Mention(NamedTuple):
    """What a caption says of one kind of things.

    Attributes:
        word: one of `words_of`.
        color: "" where it says none.
        count: exactly so many; 0 for an unknown number from one.
        place: "" where it says none.
    """

    word: str
    color: str
    count: int
    place: str


class Caption(NamedTuple):
    """A text and what it says."""

    text: str
    mentions: tuple[Mention, ...]


def words_of(thing: Thing) -> tuple[str, ...]:
    """Return the words that a thing goes by, its own name first.

    These are its name, the noun in that, its class, and other words for the class where it has no
    name of its own.
    """
    words = [thing.name, thing.name.split()[-1]]
    if thing.class_name:
        words.append(class_name_to_prompt(thing.class_name))
        if thing.name == words[-1]:
            words += SYNONYMS[thing.class_name]
    return tuple(dict.fromkeys(words))


def caption_words(things: Iterable[Thing]) -> set[str]:
    """Return every word that captions of these things may have."""
    texts = {*TEMPLATES, *_NUMBERS, *_VAGUE_NUMBERS, "a an and"}
    for thing in things:
        nouns = words_of(thing)
        texts |= {*nouns, *map(plural, nouns), thing.color, thing.surroundings}
    return {word for text in texts for word in _PIECE.findall(text)}


def fits(mention: Mention, thing: Thing) -> bool:
    """Return whether a thing is of the mentioned kind, whatever the number."""
    return (
        mention.word in words_of(thing)
        and mention.color in ("", thing.color)
        and mention.place in ("", thing.surroundings)
    )


def describe_thing(thing: Thing, rng: np.random.Generator) -> Caption:
    """Return a caption for one thing alone."""
    words = words_of(thing)
    # The class's own word as often as all others together.
    prompt = class_name_to_prompt(thing.class_name) if thing.class_name else thing.name
    word = prompt if rng.random() < 0.5 else words[rng.integers(len(words))]
    color = thing.color if rng.random() < 0.4 else ""
    place = thing.surroundings if rng.random() < 0.25 else ""
    return _caption([Mention(word, color, 0, place)], [True], rng)


def describe_picture(things: Sequence[Thing], rng: np.random.Generator) -> Caption:
    """Return a caption for a picture that shows these things, at least one."""
    names = list(dict.fromkeys(thing.name for thing in things))
    rng.shuffle(names)
    mentions: list[Mention] = []
    is_single: list[bool] = []
    for name in names[: 1 + int(rng.integers(_MAX_MENTIONS))]:
        group = [thing for thing in things if thing.name == name]
        thing = group[rng.integers(len(group))]
        words = words_of(thing)
        word = words[rng.integers(len(words))]
        color = thing.color if rng.random() < 0.3 else ""
        place = thing.surroundings if rng.random() < 0.25 else ""
        mention = Mention(word, color, 0, place)
        count = sum(fits(mention, other) for other in things)
        if count < len(_NUMBERS) and rng.random() < 0.5:
            mention = mention._replace(count=count)
        mentions.append(mention)
        is_single.append(count == 1)
    return _caption(mentions, is_single, rng)


def _caption(
    mentions: Sequence[Mention], is_single: Sequence[bool], rng: np.random.Generator
) -> Caption:
    """Put mentions into words, in the singular where they are of one thing.

    A text that is too long goes without template, then without its last mention, then its place.
    """
    said = list(mentions)
    parts = [_part(mention, one, rng) for mention, one in zip(said, is_single, strict=True)]
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    while len(_PIECE.findall(text := template.format(" and ".join(parts)))) > _MAX_WORDS:
        if template != TEMPLATES[0]:
            template = TEMPLATES[0]
        elif len(parts) > 1:
            del parts[-1], said[-1]
        else:
            # The number was that of the things in this place.
            said[0] = said[0]._replace(place="", count=0)
            parts[0] = _part(said[0], is_single[0], rng)
    return Caption(text, tuple(said))


def _part(mention: Mention, is_single: bool, rng: np.random.Generator) -> str:
    noun = f"{mention.color} {mention.word}".strip()
    if mention.count == 1:
        words = f"one {noun}"
    elif is_single:
        article = "an" if noun[0] in "aeiou" else "a"
        words = f"{article} {noun}" if rng.random() < 0.8 else noun
    else:
        number = _NUMBERS[mention.count] or _VAGUE_NUMBERS[rng.integers(len(_VAGUE_NUMBERS))]
        words = f"{number} {plural(noun)}"
    return f"{words} {mention.place}".strip()


def plural(noun: str) -> str:
    """Return the plural of a noun."""
    if noun.endswith("craft"):
        return noun
    if noun.endswith(("s", "ch", "sh", "x")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def things_of(rendered: RenderedImage) -> list[Thing]:
    """Return the things of a picture, with colours and places.

    Where the plain renderer names none, they are measured, and those of the kind of scene.
    """
    things = []
    for thing in rendered.things:
        color, place = thing.color, thing.surroundings
        if not color and thing.class_name in _COLORED:
            color = color_word(rendered.image, thing.quad)
        place = place or _PLACES.get(rendered.scene_name, "")
        things.append(thing._replace(color=color, surroundings=place))
    return things


def color_word(image: np.ndarray, quad: np.ndarray) -> str:
    """Return the word for the middle colour of the inner half of a quad, "" outside the image."""
    steps = np.linspace(0.25, 0.75, 7)
    along, across = quad[1] - quad[0], quad[3] - quad[0]
    points = quad[0] + steps[:, None, None] * along + steps[None, :, None] * across
    columns, rows = points.reshape(-1, 2).astype(int).T
    inside = (columns >= 0) & (rows >= 0) & (columns < image.shape[1]) & (rows < image.shape[0])
    if not inside.any():
        return ""
    middle = np.median(image[rows[inside], columns[inside]].astype(float), axis=0)
    distances = {
        word: float(np.abs(middle - np.array(color)).sum())
        + 1.5 * abs(_tint(middle) - _tint(np.array(color)))
        for word, color in _NAMED_COLORS.items()
    }
    return min(distances, key=lambda word: distances[word])


def _tint(color: np.ndarray) -> float:
    return float(color.max() - color.min())
