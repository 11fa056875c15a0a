"""The options of tcm-d2 train are those of `tcm_d2.engine.main`."""

from tcm_d2.engine.options import make_parser, parse_arguments

__all__ = ["make_parser", "parse_arguments"]
