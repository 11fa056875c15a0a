"""Say what a weight file is, and write it in tcm_d2's names.

  %(prog)s --weights epoch_12.pth --inspect
  %(prog)s --weights epoch_12.pth --output tcm_fcos.pth
  %(prog)s --weights RN50.pt --output clip.safetensors \\
      --config-file configs/tcm_fcos.yaml MODEL.CLIP.POSITION_IMAGE_SIZE_PX 512
  %(prog)s --weights model_final.pth --output tcm_fcos.safetensors \\
      --config-file configs/tcm_fcos.yaml --for-inference
  %(prog)s --weights rotated_fcos_r50_fpn_1x_dota_le90.pth --output fcos.pth

The input is what MODEL.WEIGHTS takes, see docs/weights.md; nothing in it is run. With a
configuration the tensors are also fitted to its model (positional embeddings resized), what does
not fit is left out, and a file that fits nothing is refused. --for-inference writes the whole
model with its text features as constants, without the text tower, and with the configuration.
A published detector of mmrotate gets a configuration beside the output, made from that in the file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_import_option, new_parser, parse_options

# Of earlier releases.
OLD_WORDS = {"--input": "--weights"}


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("--weights", required=True, type=Path, metavar="FILE", help="weights of any kind")
    add("--output", type=Path, metavar="FILE", help="to write: .pth or .safetensors")
    add_import_option(parser)
    add("--config-file", metavar="FILE", help="check against its model; .yaml or .py")
    add("--inspect", action="store_true", help="say what the file is (and fits), write nothing")
    add(
        "--for-inference",
        action="store_true",
        help="text features as constants instead of the text tower; needs --config-file",
    )
    add("--overwrite", action="store_true", help="replace an existing output")
    add("opts", nargs=argparse.REMAINDER, metavar="OVERRIDE", help="of the configuration")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = make_parser(prog)
    args = parse_options(parser, arguments, old_words=OLD_WORDS)
    if args.inspect == (args.output is not None):
        parser.error("expected either --output FILE or --inspect")
    if args.for_inference and not (args.config_file and args.output):
        parser.error("--for-inference needs --config-file and --output")
    if args.opts and not args.config_file:
        parser.error(f"overrides need --config-file: {' '.join(args.opts)}")
    return args
