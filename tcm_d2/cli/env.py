"""The command tcm-d2 env."""

from __future__ import annotations

import argparse

from tcm_d2.collect_env import collect_env, format_env


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    print(format_env(collect_env()))
    return 0
