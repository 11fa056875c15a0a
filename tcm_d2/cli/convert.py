"""The command tcm-d2 convert."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

import tcm_d2
from tcm_d2.checkpoint.convert import convert_state_dict, find_own_head
from tcm_d2.checkpoint.load import load_weights, match_weights
from tcm_d2.checkpoint.load_report import names_by_first_part, report_table
from tcm_d2.checkpoint.published import is_published, published_run
from tcm_d2.config.registries import import_user_parts
from tcm_d2.config.run import open_config
from tcm_d2.config.saved_copy import inference_metadata
from tcm_d2.engine.loop import EMA_KEY
from tcm_d2.files import write_atomically
from tcm_d2.messages import some_names
from tcm_d2.modeling.clip.text import decode_prompts
from tcm_d2.modeling.fixed_text import FIXED_TEXT_NAMES
from tcm_d2.weight_files.description import describe_tensors, find_naming
from tcm_d2.weight_files.reading import WeightFile, read_weight_file

SUFFIXES = (".pth", ".safetensors")


class Converted(NamedTuple):
    """Tensors to write, facts to store beside them, the report, and a configuration or ""."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    report: str
    config_text: str = ""


def run(args: argparse.Namespace) -> int:
    """Inspect or convert; return 0, or 1 after one line on standard error."""
    try:
        import_user_parts(args.imports)
        if args.output is not None:
            check_output(args.weights, args.output, overwrite=args.overwrite)
        file = read_weight_file(args.weights)
        print(describe(args.weights, file))
        if args.inspect and not args.config_file:
            return 0
        if args.for_inference:
            converted = convert_for_inference(file, args.weights, args.config_file, args.opts)
        elif args.config_file:
            converted = convert_for_model(file, args.weights, args.config_file, args.opts)
        elif is_published(file) and file.config_text:
            converted = convert_published(file, args.weights)
        else:
            converted = convert_names(file, args.weights)
        print(converted.report)
        if args.output is not None:
            if converted.config_text:
                write_config(args.output.with_suffix(".yaml"), converted, overwrite=args.overwrite)
            write(args.output, converted, args.weights, file)
            print(f"{len(converted.tensors)} tensors written to {args.output}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def check_output(source: Path, output: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before anything is read.

    Raises:
        ValueError: its suffix is unknown, it is the input, or it exists.
    """
    if output.suffix not in SUFFIXES:
        raise ValueError(f"--output '{output}': expected {' or '.join(SUFFIXES)} at the end")
    if output.exists() and source.exists() and output.samefile(source):
        raise ValueError(f"--output '{output}': is the input; name another file")
    if output.exists() and not overwrite:
        raise ValueError(f"--output '{output}': exists; --overwrite replaces it")


def describe(path: Path, file: WeightFile) -> str:
    """Return what a file looks like, in a few lines."""
    num_values = sum(tensor.numel() for tensor in file.tensors.values())
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in file.tensors.values()})
    lines = [
        f"{path}: {describe_tensors(file.tensors)}",
        f"  names of {find_naming(file.tensors)}: {names_by_first_part(list(file.tensors))}",
        f"  {len(file.tensors)} tensors, {num_values:,} values, {', '.join(dtypes)}",
    ]
    converted = convert_state_dict(file.tensors).state_dict
    head = find_own_head(converted)
    if head is not None:
        outputs = converted.get("head.class_predictor.bias")
        num_outputs = "?" if outputs is None else len(outputs)
        lines.append(f"  head: rotated {head.title}, {num_outputs} class outputs per cell")
    if all(name in file.tensors for name in FIXED_TEXT_NAMES):
        prompts = decode_prompts(file.tensors[FIXED_TEXT_NAMES[1]])
        lines.append(f"  for inference only: text features as constants of {', '.join(prompts)}")
    if file.is_torchscript:
        lines.append("  a TorchScript archive; its program was not run")
    if file.rest:
        lines.append(f"  besides: {some_names(list(file.rest))}")
    if file.skipped:
        lines.append(f"  objects skipped, not run: {some_names(list(file.skipped))}")
    return "\n".join(lines)


def convert_for_model(
    file: WeightFile, path: Path, config_file: str, overrides: Sequence[str]
) -> Converted:
    """Return the tensors that fit a configuration's model, in its shapes.

    Raises:
        FileNotFoundError, ValueError: the configuration cannot be used, or nothing fits.
    """
    run = open_config(config_file, overrides)
    model = run.build_model(with_part_weights=False, device="cpu")
    tensors, report = match_weights(model.state_dict(), file.tensors, source=str(path))
    return Converted(tensors, {}, report.as_table())


def convert_for_inference(
    file: WeightFile, path: Path, config_file: str, overrides: Sequence[str]
) -> Converted:
    """Return a whole model's tensors with its text features as constants, and its configuration.

    Raises:
        FileNotFoundError, ValueError: the configuration cannot be used, parameters are missing, or
            the prompts depend on the image.
    """
    run = open_config(config_file, overrides)
    model = run.build_model(with_part_weights=False, device="cpu")
    report = load_weights(model, file.tensors, source=str(path), require_all_parameters=True)
    if run.train.ema_decay and EMA_KEY in file.rest:
        source = f"{path}, {EMA_KEY}"
        report = load_weights(model, file.rest[EMA_KEY], source=source, require_all_parameters=True)
    num_before = sum(parameter.numel() for parameter in model.parameters())
    if run.prompts is not None:
        model.fix_text()
    num_after = sum(parameter.numel() for parameter in model.parameters())
    left_out = f"parameters left out: {num_before - num_after:,} of {num_before:,}"
    metadata = inference_metadata(run.text, run.prompts or run.dataloader.classes)
    return Converted(model.state_dict(), metadata, f"{report.as_table()}\n{left_out}")


def convert_published(file: WeightFile, path: Path) -> Converted:
    """Return the tensors of a detector of mmrotate, and its configuration where there can be one.

    Raises:
        ValueError: no name has a place in a detector.
    """
    try:
        run = published_run(file, path)
    except ValueError as error:
        names = convert_names(file, path)
        return names._replace(report=f"{names.report}\nnote: no configuration written: {error}")
    model = run.build_model(with_part_weights=False, device="cpu")
    tensors, report = match_weights(model.state_dict(), file.tensors, source=str(path))
    return Converted(tensors, {}, report.as_table(), run.text)


def convert_names(file: WeightFile, path: Path) -> Converted:
    """Return the tensors in our names, without a model to check them against.

    Raises:
        ValueError: no name has a place in a detector.
    """
    converted = convert_state_dict(file.tensors)
    if converted.naming == "unknown" or not converted.state_dict:
        raise ValueError(
            f"weights '{path}': nothing to convert: it looks like {describe_tensors(file.tensors)}"
        )
    names = list(converted.state_dict)
    rows = [
        ("converted", len(names), names_by_first_part(names)),
        ("of these reshaped", len(converted.reshaped), some_names(converted.reshaped, "; ")),
        ("unknown, left out", len(converted.unknown), names_by_first_part(converted.unknown)),
        ("dead, left out", len(converted.dead), names_by_first_part(converted.dead)),
    ]
    return Converted(converted.state_dict, {}, report_table(rows, converted.notes))


def write_config(path: Path, converted: Converted, *, overwrite: bool) -> None:
    """Write the configuration of a converted detector.

    Raises:
        ValueError: the file exists and is not to be replaced.
    """
    if path.exists() and not overwrite:
        raise ValueError(f"--output: its configuration '{path}' exists; --overwrite replaces it")
    write_atomically(path, lambda stream: stream.write(converted.config_text.encode()))
    print(f"configuration written to {path}")


def write(output: Path, converted: Converted, source: Path, file: WeightFile) -> None:
    """Write tensors, floating point as float32, with a few facts on where they come from."""
    # A copy each: tensors of a file may share memory, which would be written once per tensor.
    copies = {
        name: (tensor.float() if tensor.is_floating_point() else tensor)
        .detach()
        .clone(memory_format=torch.contiguous_format)
        for name, tensor in sorted(converted.tensors.items())
    }
    metadata = {
        "writer": f"tcm_d2 {tcm_d2.__version__}",
        "converted_from": find_naming(file.tensors),
        "source_file": source.name,
        "source_description": describe_tensors(file.tensors),
        **converted.metadata,
    }
    if output.suffix == ".safetensors":
        content = to_safetensors(copies, metadata)
        write_atomically(output, lambda stream: stream.write(content))
    else:
        checkpoint = {"model": copies, "metadata": metadata}
        write_atomically(output, lambda stream: torch.save(checkpoint, stream))
