"""Files written --for-inference: what is in them, that they predict the same, what refuses them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from tcm_d2 import model_zoo
from tcm_d2.cli.main import run_command
from tcm_d2.config.run import open_config
from tcm_d2.engine.build_experiment import build_experiment
from tcm_d2.engine.loop import evaluate_only, train
from tcm_d2.weight_files.reading import read_weight_file
from tests.conftest import REPO_DIR
from tests.engine.small_detector import (
    ARCHITECTURES,
    DATASET_NAME,
    make_batch,
    make_patches,
    small_config,
    write_config,
)

FAST = ["MODEL.TCM.PROMPT_GENERATOR", "meta", "MODEL.TCM.BIMODAL_MATCHING", "True"]
KINDS = {"TCM": [], "FastTCM": FAST}
ZOO = ["tcm_fcos", "tcm_atss", "tcm_retinanet", "tcm_fcos_fast"]


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_patches(tmp_path_factory.mktemp("patches"))


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)
    if DATASET_NAME in DatasetCatalog.list():
        DatasetCatalog.remove(DATASET_NAME)


def save_checkpoint(model: nn.Module, path: Path) -> Path:
    """Write a run's checkpoint of weights that find something and depend on the text."""
    with torch.no_grad():
        model.tcm.text_scale.fill_(0.5)
        model.head.class_predictor.bias.zero_()
    torch.save({"model": model.state_dict(), "iteration": 3}, path)
    return path


def convert(source: Path, output: Path, config: str, *overrides: str) -> Path:
    options = ["--input", str(source), "--output", str(output), "--config-file", config]
    assert run_command("convert", [*options, "--for-inference", *overrides]) == 0
    return output


def predict(model: nn.Module) -> list[Instances]:
    with torch.no_grad():
        return [output["instances"] for output in model.eval()(make_batch())]


def assert_same_boxes(first: list[Instances], second: list[Instances]) -> None:
    assert min(map(len, first)) > 0
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.pred_boxes.tensor, two.pred_boxes.tensor)
        assert torch.equal(one.scores, two.scores)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_model_zoo_loads_it(tmp_path: Path, name: str, suffix: str) -> None:
    config = f"embedded_{name}.yaml"
    model = model_zoo.get(config, device="cpu")
    checkpoint = save_checkpoint(model, tmp_path / "model_final.pth")
    expected = predict(model)
    path = str(REPO_DIR / "configs" / config)
    small = convert(checkpoint, tmp_path / f"small{suffix}", path)
    for loaded in (
        model_zoo.get(config, weights=str(small)),
        model_zoo.get_from_file(str(small), device="cpu"),
    ):
        assert loaded.has_fixed_text and not loaded.training
        assert_same_boxes(predict(loaded), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_alone_takes_it_and_training_does_not(
    tmp_path: Path, patches: Path, architecture: str, kind: str
) -> None:
    entry = f"{DATASET_NAME}={patches}={patches.parent / 'labelTxt'}"
    keys = [
        *("MODEL.META_ARCHITECTURE", architecture, "OUTPUT_DIR", str(tmp_path / "out")),
        *("DATASETS.PATCH_DIRS", repr([entry]), "DATASETS.TEST", f"('{DATASET_NAME}',)"),
        *KINDS[kind],
    ]
    config = str(write_config(tmp_path))
    model = open_config(config, keys).build_model()
    checkpoint = save_checkpoint(model, tmp_path / "model_final.pth")
    small = convert(checkpoint, tmp_path / "small.safetensors", config, *keys)
    results, boxes = [], []
    for weights in (checkpoint, small):
        cfg = small_config(tmp_path, *keys, "MODEL.WEIGHTS", str(weights))
        experiment = build_experiment(cfg, for_training=False)
        results.append(evaluate_only(experiment, resume=False)["dota"])
        boxes.append(predict(experiment.model))
    assert results[0] == results[1]
    assert_same_boxes(*boxes)
    run = open_config(config, [*keys, "MODEL.WEIGHTS", str(small)])
    experiment = build_experiment(run, for_training=True)
    with pytest.raises(ValueError, match=r"small\.safetensors': .* made for inference; train from"):
        train(experiment, resume=False)


def test_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write_config(tmp_path))
    keys = [*FAST, "OUTPUT_DIR", "/home/someone/out", "MODEL.CLIP.WEIGHTS", "/home/someone/RN50.pt"]
    model = open_config(config, FAST).build_model()
    checkpoint = save_checkpoint(model, tmp_path / "model_final.pth")
    small = convert(checkpoint, tmp_path / "small.safetensors", config, *keys)
    tower = sum(p.numel() for p in model.text_encoder.parameters())
    generator = sum(p.numel() for p in model.tcm.prompt_generator.parameters())
    own = model.tcm.context.numel() + model.tcm.meta_query.numel()
    assert f"parameters left out: {tower + generator + own:,} of" in capsys.readouterr().out
    file = read_weight_file(small)
    # 2 classes, joint width 32.
    assert file.tensors["text_encoder.features"].shape == (2, 32)
    with safe_open(small, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["class_names"] == '["plane", "ship"]' and "someone" not in str(metadata)
    tree = yaml.safe_load(metadata["config"])
    assert tree["model"]["tcm"]["prompt_generator"] == "meta"
    assert run_command("convert", ["--input", str(small), "--inspect"]) == 0
    assert "text features as constants of plane, ship" in capsys.readouterr().out


def test_moving_average_is_taken_where_the_configuration_has_one(tmp_path: Path) -> None:
    config = str(write_config(tmp_path))
    model = open_config(config).build_model()
    average = {n: 2 * t if t.is_floating_point() else t for n, t in model.state_dict().items()}
    torch.save({"model": model.state_dict(), "model_ema": average}, tmp_path / "both.pth")
    name = "head.class_predictor.weight"
    for decay, factor in ((0.0, 1), (0.99, 2)):
        output = tmp_path / f"{factor}.pth"
        convert(tmp_path / "both.pth", output, config, "SOLVER.EMA_DECAY", str(decay))
        tensors = read_weight_file(output).tensors
        assert torch.equal(tensors[name], factor * model.state_dict()[name])


def test_detector_without_text_is_written_whole(tmp_path: Path) -> None:
    config = str(write_config(tmp_path))
    model = open_config(config, ["MODEL.TCM.ENABLED", "False"]).build_model()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    small = tmp_path / "small.safetensors"
    convert(tmp_path / "w.pth", small, config, "MODEL.TCM.ENABLED", "False")
    assert read_weight_file(small).tensors.keys() == model.state_dict().keys()
    assert model_zoo.get_from_file(str(small)).tcm is None


def test_python_configuration_goes_inside(tmp_path: Path) -> None:
    """It does as plain data, of which only registered parts are built."""
    lazy = REPO_DIR / "configs/lazy/tcm_fcos_fast.py"
    small = (
        "model.backbone.name=custom model.backbone.embed_dim=32 "
        "model.backbone.vision_layers=[1,1,1,1] "
        "model.backbone.vision_width=8 model.backbone.text_width=32 model.backbone.text_heads=1 "
        "model.backbone.text_layers=1 train.device=cpu model.neck.out_channels=32 "
        "model.head.channels=32 model.head.num_convs=1 model.head.score_threshold=0.001 "
        "train.output_dir=/home/someone"
    ).split()
    model = open_config(lazy, small).build_model()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    output = convert(tmp_path / "w.pth", tmp_path / "small.safetensors", str(lazy), *small)
    assert "someone" not in str(read_weight_file(output).rest)
    loaded = model_zoo.get_from_file(str(output), device="cpu")
    assert loaded.has_fixed_text
    assert_same_boxes(predict(loaded), predict(model))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["MODEL.TCM.PROMPT_GENERATOR", "image"], "differ from image to image"),
        (["MODEL.TCM.BIMODAL_MATCHING", "True"], "1 parameters of the model are not in the file"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    config = str(write_config(tmp_path))
    built_with = more if "image" in more else []
    torch.save(open_config(config, built_with).build_model().state_dict(), tmp_path / "w.pth")
    output = tmp_path / "small.safetensors"
    options = ["--input", str(tmp_path / "w.pth"), "--output", str(output)]
    assert (
        run_command("convert", [*options, "--config-file", config, "--for-inference", *more]) == 1
    )
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not output.exists()


def test_file_without_a_configuration(tmp_path: Path) -> None:
    save_file({"head.class_predictor.bias": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"hold no configuration; give the one .* --for-inference"):
        model_zoo.get_from_file(str(tmp_path / "w.safetensors"))


def test_option_needs_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command("convert", ["--input", "w.pth", "--output", "o.pth", "--for-inference"])
    assert "--for-inference needs --config-file" in capsys.readouterr().err
