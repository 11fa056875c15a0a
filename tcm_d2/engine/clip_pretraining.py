"""Pre-train a small CLIP on rendered crops and captions.

The loss is CLIP's own between crops and captions, and the same between the dense tokens of the
crops' cells and phrases for the things in them: TCM matches words with places. What is no pair but
true all the same is no negative.

Letters: N crops, S their side in pixels, C joint width, R rows of the token embedding.
"""

from __future__ import annotations

import logging
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from tcm_d2.config.loader import load_config
from tcm_d2.files import write_atomically
from tcm_d2.modeling.backbone.clip_resnet import CLIPResNet, clip_resnet_arguments
from tcm_d2.modeling.clip.attention_pool import DenseAttentionPool
from tcm_d2.modeling.clip.text import tokenize_prompts, tokenize_words
from tcm_d2.modeling.clip.towers import build_clip, custom_architecture
from tcm_d2.modeling.clip.weights import TOKEN_ROWS_NAME
from tcm_d2.packaged_configs import config_folder
from tcm_d2.synthetic.captioned_crops import (
    CaptionedScene,
    CropBatch,
    CropSampler,
)
from tcm_d2.synthetic.captions import caption_words

logger = logging.getLogger(__name__)

# Crops of an iteration and their side in pixels, in turn.
BATCHES = ((48, 160), (20, 256))
LEARNING_RATE, WEIGHT_DECAY, WARMUP_ITERS = 1.5e-3, 0.05, 100
REGION_LOSS_WEIGHT = 1.0
# TCM's temperature: what the score map divides cosines by is what they are trained for.
LOGIT_SCALE = 1 / 0.07
SAVE_PERIOD, LOG_PERIOD = 100, 20
# CLIP's byte-pair encoding, and tokens of a word, start and end included.
VOCAB_SIZE, _LONGEST_WORD = 49408, 12


class SmallCLIP(nn.Module):
    """The towers as the detectors have them, over the rows of the token embedding in use."""

    token_ids: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, token_ids: Tensor) -> None:
        """Args:
        token_ids: int64 (R,), ascending; the ids that captions have.
        """
        super().__init__()
        cfg = load_config(config_folder() / "Base-Embedded.yaml")
        arguments = clip_resnet_arguments(cfg)
        architecture = custom_architecture(
            **{
                name: arguments[name]
                for name in (
                    *("embed_dim", "vision_layers", "vision_width", "text_width", "text_heads"),
                    *("text_layers", "vocab_size", "context_length"),
                )
            }
        )
        self.clip = build_clip(
            architecture, position_image_size_px=arguments["position_image_size_px"]
        )
        self.clip.token_embedding = nn.Embedding(len(token_ids), arguments["text_width"])
        nn.init.normal_(self.clip.token_embedding.weight, std=0.02)
        self.image_tower = CLIPResNet(self.clip.visual, norm="BN")
        self.attention_pool = DenseAttentionPool(self.clip.visual.attnpool)
        self.context_length, self.vocab_size = arguments["context_length"], arguments["vocab_size"]
        self.register_buffer("token_ids", token_ids)
        for name, value in (("mean", cfg.MODEL.PIXEL_MEAN), ("std", cfg.MODEL.PIXEL_STD)):
            self.register_buffer(name, torch.tensor(value).view(-1, 1, 1), persistent=False)

    def encode_images(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return global tokens (N, C) and dense tokens (cells, C), of length 1.

        Args:
            images: uint8 (N, S, S, 3), RGB.
        """
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        tokens = self.attention_pool(self.image_tower((pixels - self.mean) / self.std)["res5"])
        dense = tokens.dense_NCHW.flatten(2).transpose(1, 2).flatten(0, 1)
        return F.normalize(tokens.global_NC, dim=-1), F.normalize(dense, dim=-1)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Return embeddings (K, C) of length 1; too long texts lose their last words."""
        room = self.context_length - 2
        ids = tokenize_prompts(
            [shorten(text, room) for text in texts],
            tokens_per_class=self.context_length,
            vocab_size=self.vocab_size,
        )
        # Rows are in the order of the ids: end of text stays the highest.
        rows = torch.searchsorted(self.token_ids, ids)
        embeddings: Tensor = self.clip.encode_text(rows)
        return F.normalize(embeddings, dim=-1)

    def losses(self, batch: CropBatch) -> dict[str, Tensor]:
        """Return the loss of crops and captions, and that of cells and phrases."""
        images, cells = self.encode_images(batch.images)
        texts = self.encode_texts(batch.captions + batch.phrases)
        captions, phrases = texts[: len(batch.captions)], texts[len(batch.captions) :]
        pairs = torch.eye(len(images), dtype=torch.bool)
        shows = torch.from_numpy(batch.shows)
        return {
            "loss_image": contrastive_loss(
                LOGIT_SCALE * captions @ images.T, pairs, torch.from_numpy(batch.caption_fits)
            ),
            "loss_region": REGION_LOSS_WEIGHT
            * contrastive_loss(
                LOGIT_SCALE * phrases @ cells.T, shows, torch.from_numpy(batch.touches)
            ),
        }

    def file_content(self) -> bytes:
        """Return the file: names as CLIP's, half precision, only the rows of tokens in use."""
        tensors = {
            name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
            for name, tensor in self.clip.state_dict().items()
            if name != "attn_mask"
        }
        tensors[TOKEN_ROWS_NAME] = self.token_ids.int()
        return save(tensors, {"source": "pre-trained by tcm_d2 on its own rendered scenes"})


def shorten(text: str, num_tokens: int) -> str:
    """Return a text without the last words that do not fit into so many tokens."""
    while len(tokenize_words(text)) > num_tokens:
        text = text.rpartition(" ")[0]
    return text


def contrastive_loss(logits: Tensor, is_pair: Tensor, is_true: Tensor) -> Tensor:
    """Return the mean of both directions' cross-entropies, a scalar.

    Args:
        logits: (texts, places).
        is_pair: bool, what each is to be told from all others with: at least one per text.
        is_true: bool, what is no negative either.
    """
    logits = logits.masked_fill(is_true & ~is_pair, float("-inf"))
    total = logits.new_zeros(())
    for dim in (1, 0):
        wanted = logits.masked_fill(~is_pair, float("-inf")).logsumexp(dim)
        cost = (logits.logsumexp(dim) - wanted)[is_pair.any(dim)]
        total = total + cost.mean() / 2
    return total


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW; vectors (norms, biases) do not decay."""
    parameters = [p for n, p in model.named_parameters() if not n.endswith("logit_scale")]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
        fused=True,
    )


def learning_rate(iteration: int, num_iterations: int) -> float:
    """Return the rate of an iteration: a linear start, then half a cosine to zero."""
    warm = min(1.0, (iteration + 1) / WARMUP_ITERS)
    return LEARNING_RATE * warm * 0.5 * (1 + math.cos(math.pi * iteration / num_iterations))


def train(
    model: SmallCLIP, sampler: CropSampler, path: Path, *, num_iterations: int, seed: int
) -> None:
    """Train to the end.

    Args:
        model: changed in place.
        sampler: of the crops.
        path: checkpoint to go on from where it is there, and to write.
        num_iterations: of the whole training.
        seed: of the crops and captions.

    Raises:
        ValueError: the checkpoint is of a training of another length.
    """
    optimizer = make_optimizer(model)
    start = 0
    if path.is_file():
        state = torch.load(path, weights_only=True)
        if state["num_iterations"] != num_iterations:
            raise ValueError(
                f"'{path}': belongs to a run of {state['num_iterations']} iterations, not "
                f"{num_iterations}; give that number, or another folder"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["iteration"]
        logger.info("going on from iteration %d (%s)", start, path)
    model.train()
    began = time.perf_counter()
    for iteration in range(start, num_iterations):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(iteration, num_iterations)
        num_crops, size_px = BATCHES[iteration % len(BATCHES)]
        rng = np.random.default_rng([seed, iteration])
        losses = model.losses(sampler.draw(rng, num_crops=num_crops, size_px=size_px))
        optimizer.zero_grad()
        torch.autograd.backward(list(losses.values()))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        done = iteration + 1
        if done % LOG_PERIOD == 0:
            per_iteration = (time.perf_counter() - began) / (done - start)
            left = per_iteration * (num_iterations - done) / 60
            shown = ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            logger.info("iteration %d of %d: %s; %.1f min left", done, num_iterations, shown, left)
        if done % SAVE_PERIOD == 0 or done == num_iterations:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "iteration": done,
                "num_iterations": num_iterations,
            }
            write_atomically(path, partial(torch.save, state))


def token_ids(scenes: list[CaptionedScene]) -> Tensor:
    """Return the ids of all tokens that captions of scenes have, ascending."""
    words = caption_words(thing for scene in scenes for thing in scene.things)
    ids = tokenize_prompts(sorted(words), tokens_per_class=_LONGEST_WORD, vocab_size=VOCAB_SIZE)
    return torch.tensor(sorted({*ids.flatten().tolist()}))
