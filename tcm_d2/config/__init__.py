"""Configuration keys of tcm_d2 and the safe way to read files of them."""

from tcm_d2.config.defaults import add_tcm_config, get_tcm_config
from tcm_d2.config.loader import load_config, merge_file, merge_overrides

__all__ = ["add_tcm_config", "get_tcm_config", "load_config", "merge_file", "merge_overrides"]
