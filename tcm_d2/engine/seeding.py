"""Random numbers as functions of (seed, position), so that a resumed run draws the same ones."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def derive_seed(*parts: int) -> int:
    """Return a 32-bit seed that depends on all of ``parts`` (non-negative) and their order."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (CUDA's included)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - augmentations may draw from the global generator
    torch.manual_seed(seed)


def shared_seed(seed: int) -> int:
    """Return ``seed``, or for a negative one a random number that all processes share."""
    if seed >= 0:
        return seed
    drawn = int(comm.shared_random_seed())
    logger.info("SEED is -1: this run draws %d", drawn)
    return drawn


@contextmanager
def isolated_seed(seed: int) -> Iterator[None]:
    """Seed the global CPU generators inside the block; leave them as they were outside."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002
    torch_state = torch.random.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    # Not torch.manual_seed: that seeds CUDA too, which is not restored here.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.random.set_rng_state(torch_state)


def use_deterministic_algorithms() -> None:
    """Prefer algorithms that give the same bits each time; one that has none warns once."""
    # cuBLAS reads this when its first handle is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory finds uninitialised reads and costs time; it decides no result here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
