#!/usr/bin/env python3
"""Train or evaluate a detector; see tcm_d2/engine/command.py, or --help."""

from __future__ import annotations

import os

# Read by OpenMP when torch is loaded: idle threads sleep. Spinning ones make CPU training ten times
# slower as soon as anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tcm_d2.engine import main

if __name__ == "__main__":
    main()
