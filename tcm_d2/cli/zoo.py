"""The command tcm-d2 zoo."""

from __future__ import annotations

import argparse
import shutil
import sys

from tcm_d2.packaged_configs import config_folder, list_config_names


def run(args: argparse.Namespace) -> int:
    """List or copy; return 0, or 1 after a message on standard error."""
    try:
        if args.copy_to is not None:
            shutil.copytree(config_folder(), args.copy_to)
            print(f"all configurations copied to {args.copy_to}")
            return 0
        names = [name for name in list_config_names() if args.part in name]
        if not names:
            raise ValueError(f"no configuration has {args.part!r} in its name")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(names))
    print(f"{len(names)} configurations in {config_folder()}; MODEL_ZOO.md describes them")
    return 0
