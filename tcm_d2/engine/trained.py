"""A trained detector from a configuration of either kind and a weight file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from tcm_d2.checkpoint.load import SafeCheckpointer
from tcm_d2.engine.doors import open_plan
from tcm_d2.engine.plan import Plan


class TrainedDetector(NamedTuple):
    """A detector in evaluation mode, and the plan that it was built by."""

    model: nn.Module
    plan: Plan


def load_trained(
    config_file: str | os.PathLike[str], weights: str | os.PathLike[str], overrides: Sequence[str]
) -> TrainedDetector:
    """Build the configuration's detector and load weights, which must hold every parameter.

    Args:
        config_file: ``.yaml`` or ``.py``; CLIP's own weights in it are not read.
        weights: of the whole detector.
        overrides: see `open_plan`.

    Raises:
        FileNotFoundError, ValueError: a file or override that cannot be used.
    """
    plan = open_plan(config_file, overrides)
    model = plan.build_model(False)
    SafeCheckpointer(model).load(
        os.fspath(weights), checkpointables=[], require_all_parameters=True
    )
    return TrainedDetector(model.eval(), plan)
