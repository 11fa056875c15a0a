"""Configuration keys of tcm_d2."""

from tcm_d2.config.defaults import add_tcm_config, get_tcm_config

__all__ = ["add_tcm_config", "get_tcm_config"]
