#!/usr/bin/env python3
"""The command ``tcm-d2 convert``, from a checkout."""

import sys

from tcm_d2.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("convert", prog=sys.argv[0]))
