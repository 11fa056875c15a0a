#!/usr/bin/env python3
"""Write a detector as a file that other programs run: ONNX (.onnx) or torch.export (.pt2).

  tools/export_model.py --config-file configs/tcm_fcos.yaml --weights model_final.pth \\
      --output tcm_fcos.onnx
  tools/export_model.py --config-file configs/tcm_fcos.yaml --weights model_final.pth \\
      --output tcm_fcos.onnx --dynamic --size 512 512 --check

See docs/export.md for the inputs and outputs, and tcm_d2.export.running for what comes after them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tcm_d2.checkpoint.load import load_weights
from tcm_d2.config.registries import add_import_option, import_user_parts
from tcm_d2.config.run import open_config
from tcm_d2.data.dota.classes import class_name_to_prompt
from tcm_d2.engine.loop import EMA_KEY
from tcm_d2.export.comparing import compare_outputs
from tcm_d2.export.dense_model import DenseModel
from tcm_d2.export.files import SUFFIXES, export_metadata, save_onnx, save_program, trace
from tcm_d2.export.running import ExportedDetector
from tcm_d2.modeling.clip.text import LABEL_FIELD
from tcm_d2.weight_files.reading import read_weight_file

DEFAULT_OPSET = 18
# What --check allows between the file's outputs and the model's.
MAX_CORNER_DIFFERENCE_PX, MAX_SCORE_DIFFERENCE = 0.1, 1e-3


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_import_option(parser)
    add("--config-file", required=True, metavar="FILE", help=".yaml or .py, see configs/")
    add("--weights", required=True, metavar="FILE", help="what MODEL.WEIGHTS takes")
    add("--output", required=True, type=Path, metavar="FILE", help="to write: .onnx or .pt2")
    add("--size", type=int, nargs=2, default=(1024, 1024), metavar=("H", "W"), help="in pixels")
    add("--batch-size", type=int, default=1, help="images at a time, where not --dynamic")
    add("--dynamic", action="store_true", help="any batch size and size from 160 px on")
    add(
        "--postprocess",
        action="store_true",
        help="choose the best candidates in the file; only NMS is left to do",
    )
    add("--opset", type=int, default=DEFAULT_OPSET, help=f"of ONNX ({DEFAULT_OPSET})")
    add("--check", action="store_true", help="run the file and compare with the model")
    add(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="of a detector with an open vocabulary: what the file finds",
    )
    add("--overwrite", action="store_true", help="replace an existing output")
    add("opts", nargs=argparse.REMAINDER, metavar="OVERRIDE", help="of the configuration")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; return 0, or 1 after one line on standard error."""
    args = parse_arguments(arguments)
    try:
        export(args)
    except (ValueError, TypeError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def export(args: argparse.Namespace) -> None:
    """Write the file, and compare if asked for.

    Raises:
        ValueError, ImportError, OSError: something cannot be used, exported or written.
    """
    if args.output.suffix not in SUFFIXES:
        raise ValueError(f"--output '{args.output}': expected {' or '.join(SUFFIXES)} at the end")
    if args.output.exists() and not args.overwrite:
        raise ValueError(f"--output '{args.output}': exists; --overwrite replaces it")
    import_user_parts(args.imports)
    run = open_config(args.config_file, args.opts)
    detector = run.build_model(with_part_weights=False, device="cpu")
    file = read_weight_file(args.weights)
    load_weights(detector, file.tensors, source=args.weights, require_all_parameters=True)
    if run.train.ema_decay and EMA_KEY in file.rest:
        load_weights(detector, file.rest[EMA_KEY], source=f"{args.weights}, {EMA_KEY}")
    if args.classes:
        template = run.class_text[1] if run.class_text else LABEL_FIELD
        prompts = [class_name_to_prompt(name) for name in args.classes]
        detector.set_class_names(prompts, template=template)
    kind = "candidates" if args.postprocess else "dense"
    model = DenseModel(detector, kind=kind)
    names = (
        args.classes
        or run.dataloader.classes
        or run.prompts
        or [str(i) for i in range(run.num_classes or 0)]
    )
    size_hw = tuple(args.size)
    metadata = export_metadata(
        model,
        class_names=names,
        image_format=run.build_mapper(is_train=False).image_format,
        batch_size=None if args.dynamic else args.batch_size,
        size_hw=None if args.dynamic else size_hw,
    )
    program = trace(model, batch_size=args.batch_size, size_hw=size_hw, dynamic=args.dynamic)
    if args.output.suffix == ".onnx":
        save_onnx(program, args.output, metadata, opset=args.opset)
    else:
        save_program(program, args.output, metadata)
    num_bytes = args.output.stat().st_size
    if args.check:
        check(model, args.output, args.batch_size, size_hw)
    print(f"{args.output}: {num_bytes / 1e6:.1f} MB, outputs {', '.join(model.output_names)}")


def check(model: DenseModel, path: Path, batch_size: int, size_hw: tuple[int, int]) -> None:
    """Run the file and the model on one image of noise, and print how far they are apart.

    Raises:
        ValueError: further than the limits.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch_size, 3, *size_hw), generator=generator).float()
    if path.suffix == ".onnx":
        outputs = ExportedDetector.from_onnx(path).run(images.numpy())
    else:
        outputs = [v.numpy() for v in torch.export.load(path).module()(images)]
    with torch.no_grad():
        expected = [v.numpy() for v in model(images)]
    difference = compare_outputs(model.output_names, expected, outputs)
    text = (
        f"largest difference from the model: corners {difference.corners_px:.2g} px, scores "
        f"{difference.scores:.2g}"
    )
    if difference.corners_px > MAX_CORNER_DIFFERENCE_PX or difference.scores > MAX_SCORE_DIFFERENCE:
        raise ValueError(
            f"{path}: {text}; allowed are {MAX_CORNER_DIFFERENCE_PX} px and {MAX_SCORE_DIFFERENCE}"
        )
    print(text)


if __name__ == "__main__":
    sys.exit(main())
