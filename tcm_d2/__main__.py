"""``python -m tcm_d2``: the command tcm-d2 where it is not on the PATH."""

import sys

from tcm_d2.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
