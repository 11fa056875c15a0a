"""The command tcm-d2 export."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from tcm_d2.checkpoint.load import load_weights
from tcm_d2.config.registries import import_user_parts
from tcm_d2.config.run import open_config
from tcm_d2.data.dota.classes import class_name_to_prompt
from tcm_d2.engine.loop import EMA_KEY
from tcm_d2.export.comparing import compare_outputs
from tcm_d2.export.dense_model import DenseModel
from tcm_d2.export.files import SUFFIXES, export_metadata, save_onnx, save_program, trace
from tcm_d2.export.running import ExportedDetector
from tcm_d2.modeling.clip.text import LABEL_FIELD
from tcm_d2.weight_files.reading import read_weight_file

# What --check allows between the file's outputs and the model's.
MAX_CORNER_DIFFERENCE_PX, MAX_SCORE_DIFFERENCE = 0.1, 1e-3


def run(args: argparse.Namespace) -> int:
    """Export; return 0, or 1 after one line on standard error."""
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
