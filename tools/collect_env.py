#!/usr/bin/env python3
"""Print versions, the extension's state and devices; the same as python -m tcm_d2.collect_env."""

from tcm_d2.collect_env import main

if __name__ == "__main__":
    main()
