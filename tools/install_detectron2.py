#!/usr/bin/env python3
"""The command ``tcm-d2 install-detectron2``, from a checkout where nothing is installed yet."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tcm_d2.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("install-detectron2", prog=sys.argv[0]))
