"""The commands tcm-d2 train and tcm-d2 eval."""

from tcm_d2.engine.command import run_command as run

__all__ = ["run"]
