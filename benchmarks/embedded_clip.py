"""What the embedded CLIP knows of held-out rendered scenes, before any detector is trained.

    python tools/benchmark.py embedded_clip
    python tools/benchmark.py embedded_clip --weights ""            # random weights, for comparison
    python tools/benchmark.py embedded_clip --sheet maps.png
    python tools/benchmark.py embedded_clip --further               # things that are no classes

"zero-shot" is the part of crops around one object each whose global token is nearest to the words
of that object's class, among all fifteen. "pointing" is the part of 256 px patches with a class in
them whose dense token nearest to its words lies on an object of the class; "chance" is the part of
their cells that do. "--further": crops of photo-like scenes' things that captions name and that are
no class, or a kind of one: cranes, buses, ..., named among all of these and the classes, less the
other words that are true of them ("large vehicle" of a bus).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

from tcm_d2.config.loader import load_config
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES, class_name_to_prompt
from tcm_d2.modeling.backbone.clip_resnet import build_clip_resnet, clip_resnet_arguments
from tcm_d2.modeling.class_text import ClassText, ClassTextConfig
from tcm_d2.modeling.clip.towers import take_text_side
from tcm_d2.synthetic.captioned_crops import CaptionedScene, cell_coverage, render_scene
from tcm_d2.synthetic.captions import DETECTOR_TEMPLATE, words_of
from tcm_d2.synthetic.geometry import fraction_inside
from tcm_d2.synthetic.things import Thing
from tcm_d2.visualize.draw import draw_score_map
from tcm_d2.visualize.sheets import make_contact_sheet, save_image

CONFIG_FILE = Path(__file__).resolve().parents[1] / "configs" / "Base-Embedded.yaml"
CLASS_WORDS = tuple(class_name_to_prompt(name) for name in DOTA_V1_CLASSES)
PATCH_PX, CROP_PX = 256, 128
# A crop is this much wider than its object, and no smaller or larger than these.
CONTEXT_FACTOR, MIN_CROP_PX, MAX_CROP_PX = 1.6, 64, 256
MAX_CROPS_PER_CLASS = 60
# A further thing is asked for where the scenes have so many crops of it.
MIN_CROPS_TO_ASK = 10
VISIBLE_FRACTION = 0.6
VAL_SPLIT = 1


class Towers(NamedTuple):
    """The embedded CLIP as detectors have it, and the embeddings (K, C) of K words."""

    backbone: torch.nn.Module
    attention_pool: torch.nn.Module
    text_KC: Tensor
    mean: Tensor
    std: Tensor

    @torch.no_grad()
    def tokens(self, images: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return the cosines with the words of global (N, K) and dense tokens (N, K, G, G)."""
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
        pooled = self.attention_pool(self.backbone((pixels - self.mean) / self.std)["res5"])
        dense = torch.einsum("nchw,kc->nkhw", F.normalize(pooled.dense_NCHW, dim=1), self.text_KC)
        return F.normalize(pooled.global_NC, dim=1) @ self.text_KC.T, dense


def load_towers(weights: str, words: Sequence[str] = CLASS_WORDS) -> Towers:
    """Return the towers with words, those of the classes, read in the detectors' template."""
    cfg = load_config(CONFIG_FILE, ["MODEL.CLIP.WEIGHTS", weights])
    torch.manual_seed(0)
    backbone = build_clip_resnet(**clip_resnet_arguments(cfg)).eval()
    side = take_text_side(backbone, is_needed=True)
    config = ClassTextConfig(
        class_names=words,
        template=DETECTOR_TEMPLATE,
        tokens_per_class=cfg.MODEL.CLIP.CONTEXT_LENGTH - 1,
    )
    text = ClassText(side.clip, config, num_classes=len(words))
    with torch.no_grad():
        embeddings = F.normalize(text(torch.empty(0, side.token_width), None), dim=1)
    mean, std = (
        torch.tensor(values).view(-1, 1, 1)
        for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    )
    return Towers(backbone, side.attention_pool.eval(), embeddings, mean, std)


def object_crops(
    scenes: list[CaptionedScene], word_of: Callable[[Thing], str]
) -> dict[str, list[np.ndarray]]:
    """Return crops (CROP_PX, CROP_PX, 3) around single objects, by word; "" is left out."""
    crops: dict[str, list[np.ndarray]] = defaultdict(list)
    for scene in scenes:
        size = scene.image.shape[0]
        for thing in scene.things:
            word = word_of(thing)
            if len(crops[word]) >= MAX_CROPS_PER_CLASS or not word:
                continue
            # Objects at the border would show less than the others.
            inside = fraction_inside(thing.quad, width_px=size, height_px=size)
            if inside == 1.0:
                crops[word].append(cut_square(scene.image, thing.quad))
    return crops


def cut_square(image: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """Return the upright square around an object, (CROP_PX, CROP_PX, 3); grey outside the image."""
    long_px = max(np.hypot(*(quad[1] - quad[0])), np.hypot(*(quad[2] - quad[1])))
    side = float(np.clip(CONTEXT_FACTOR * long_px, MIN_CROP_PX, MAX_CROP_PX))
    left, top = quad.mean(0) - side / 2
    scale = CROP_PX / side
    matrix = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]], np.float64)
    return cv2.warpAffine(image, matrix, (CROP_PX, CROP_PX), borderValue=(110, 110, 110))


def zero_shot(towers: Towers, scenes: list[CaptionedScene]) -> dict[str, float]:
    """Return the part of each class's crops that are named right, by the word of the class."""
    crops = object_crops(scenes, lambda thing: class_name_to_prompt(thing.class_name))
    return {
        word: (towers.tokens(crops[word])[0].argmax(1) == index).float().mean().item()
        for index, word in enumerate(CLASS_WORDS)
        if crops[word]
    }


def pointing(
    towers: Towers, scenes: list[CaptionedScene]
) -> tuple[dict[str, list[bool]], dict[str, list[float]], dict[str, np.ndarray]]:
    """Return hits and chances of each patch by class, and a picture of a map by class."""
    hits: dict[str, list[bool]] = defaultdict(list)
    chances: dict[str, list[float]] = defaultdict(list)
    pictures: dict[str, np.ndarray] = {}
    for scene in scenes:
        for top in range(0, scene.image.shape[0] - PATCH_PX + 1, PATCH_PX):
            for left in range(0, scene.image.shape[1] - PATCH_PX + 1, PATCH_PX):
                patch = scene.image[top : top + PATCH_PX, left : left + PATCH_PX]
                maps = towers.tokens([patch])[1][0].numpy()
                quads: dict[str, list[np.ndarray]] = defaultdict(list)
                for thing in scene.things:
                    quad = thing.quad - [left, top]
                    inside = fraction_inside(quad, width_px=PATCH_PX, height_px=PATCH_PX)
                    if inside >= VISIBLE_FRACTION and thing.class_name:
                        quads[thing.class_name].append(quad)
                for name, here in quads.items():
                    on_object = sum(cell_coverage(quad, PATCH_PX) for quad in here) > 0
                    scores = maps[DOTA_V1_CLASSES.index(name)]
                    hits[name].append(bool(on_object.flat[scores.argmax()]))
                    chances[name].append(float(on_object.mean()))
                    if name not in pictures:
                        drawn = draw_score_map(patch, scores, value_range=None, opacity=0.5)
                        for quad in here:
                            cv2.polylines(
                                drawn, [np.round(quad).astype(np.int32)], True, (0, 0, 0), 2
                            )
                        pictures[name] = drawn
    return hits, chances, pictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--weights", default="embedded", help='MODEL.CLIP.WEIGHTS; "": random')
    parser.add_argument("--kind", choices=("plain", "photo"), default="plain", help="of scenes")
    parser.add_argument("--num-scenes", type=int, default=48)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--further", action="store_true", help="name things without labels")
    parser.add_argument("--sheet", type=Path, help="picture to write: a map of each class")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table and return the exit status."""
    # The plain scenes have no further things.
    first = 0 if args.kind == "plain" and not args.further else 1
    indices = range(first, 2 * args.num_scenes, 2)
    scenes = [render_scene(args.seed, VAL_SPLIT, index) for index in indices]
    if args.further:
        print(make_further_table(args.weights, scenes))
        return 0
    towers = load_towers(args.weights)
    named = zero_shot(towers, scenes)
    hits, chances, pictures = pointing(towers, scenes)
    rows = [
        [
            name,
            f"{100 * named[word]:.0f}" if word in named else "-",
            len(hits[name]),
            f"{100 * np.mean(hits[name]):.0f}",
            f"{100 * np.mean(chances[name]):.0f}",
        ]
        for name, word in zip(DOTA_V1_CLASSES, CLASS_WORDS, strict=True)
        if hits[name]
    ]
    means = [100 * np.mean([np.mean(values[row[0]]) for row in rows]) for values in (hits, chances)]
    rows.append(
        ["mean", f"{100 * np.mean(list(named.values())):.1f}", "", *(f"{m:.1f}" for m in means)]
    )
    header = ["class", "zero-shot", "patches", "pointing", "chance"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))
    if args.sheet:
        names = [name for name in DOTA_V1_CLASSES if name in pictures]
        sheet = make_contact_sheet(
            [pictures[n] for n in names], columns=5, captions=names, tile_width_px=256
        )
        save_image(args.sheet, sheet)
    return 0


def make_further_table(weights: str, scenes: list[CaptionedScene]) -> str:
    """Return how well things are named that are no class, among themselves and the classes."""
    crops = object_crops(scenes, lambda thing: thing.name)
    further = sorted(
        word
        for word, found in crops.items()
        if word not in CLASS_WORDS and len(found) >= MIN_CROPS_TO_ASK
    )
    words = (*CLASS_WORDS, *further)
    towers = load_towers(weights, words)
    rows = []
    for index, word in enumerate(words[len(CLASS_WORDS) :], len(CLASS_WORDS)):
        things = (thing for scene in scenes for thing in scene.things if thing.name == word)
        others = {other for thing in things for other in words_of(thing)} - {word}
        cosines = towers.tokens(crops[word])[0]
        cosines[:, [row for row, other in enumerate(words) if other in others]] = -1
        rows.append((word, len(crops[word]), (cosines.argmax(1) == index).float().mean().item()))
    parts = [[word, number, f"{100 * part:.0f}"] for word, number, part in rows]
    parts.append(["mean", "", f"{100 * np.mean([part for *_, part in rows]):.1f}"])
    print(f"{len(words)} words; by chance {100 / len(words):.1f}")
    return tabulate(parts, ["thing", "crops", "zero-shot"], "github", disable_numparse=True)
