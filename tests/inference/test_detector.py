"""Detector: where it comes from, what it takes, and what it says when something is missing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from safetensors.torch import save_file
from torch import nn

import tcm_d2
from tcm_d2 import Detections, Detector
from tcm_d2.checkpoint.load import EMA_KEY
from tcm_d2.config import load_config
from tcm_d2.config.run import open_config
from tcm_d2.cpu import accelerate
from tcm_d2.inference.large_image import WindowConfig
from tcm_d2.inference.tta import RotatedTTA, TTAConfig
from tests.inference.small_run import ALL_SCORES, CLASSES, noise_image, write_run

CONFIGS_DIR = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "out")


@pytest.fixture(scope="module")
def detector(run_dir: Path) -> Detector:
    return Detector.from_pretrained(run_dir, device="cpu", score_threshold=ALL_SCORES)


def _equal(first: Detections, second: Detections) -> bool:
    return np.array_equal(first.boxes, second.boxes) and np.array_equal(first.scores, second.scores)


def test_top_level_names_are_imported_when_asked_for() -> None:
    assert {"Detector", "Detections"} <= set(dir(tcm_d2))
    with pytest.raises(AttributeError, match="no attribute 'Detecter'"):
        _ = tcm_d2.Detecter


def test_detections_are_the_models(run_dir: Path, detector: Detector) -> None:
    image = noise_image(64, 64)
    model = build_model(load_config(run_dir / "config.yaml"))
    model.load_state_dict(torch.load(run_dir / "model_final.pth", weights_only=True)["model"])
    accelerate(model.eval())  # as `Detector` does on the CPU; rounds otherwise than torch
    with torch.no_grad():
        expected = model([{"image": torch.from_numpy(image).permute(2, 0, 1)}])
    found = detector(image)
    assert len(found) > 5 and found.classes == CLASSES and found.image_id == "array"
    instances = expected[0]["instances"]
    np.testing.assert_allclose(found.scores, instances.scores.numpy(), rtol=1e-6)
    theirs = instances.pred_boxes.tensor.double().numpy()
    np.testing.assert_allclose(found.boxes[:, :2], theirs[:, :2], atol=1e-4)
    assert (found.boxes[:, 2] >= found.boxes[:, 3]).all()


def test_paths_arrays_lists_and_channel_orders_agree(tmp_path: Path, detector: Detector) -> None:
    image = noise_image(100, 150)
    cv2.imwrite(str(tmp_path / "scene.png"), image[..., ::-1])
    from_file = detector(tmp_path / "scene.png")
    from_array, from_bgr = (
        detector([image, image[..., ::-1]]),
        detector(image[..., ::-1], channel_order="BGR"),
    )
    assert _equal(from_file, from_array[0]) and _equal(from_file, from_bgr)
    assert not _equal(from_file, from_array[1])
    assert from_file.image_id == "scene" and from_file.image_size_hw == (100, 150)
    alpha = np.dstack([image, np.zeros(image.shape[:2], np.uint8)])
    assert _equal(from_file, detector(alpha))
    grey = image[..., 0]
    assert _equal(detector(grey), detector(np.dstack([grey] * 3)))


def test_score_threshold_of_a_call(detector: Detector) -> None:
    image = noise_image(64, 64)
    everything = detector(image)
    middle = float(np.median(everything.scores))
    some = detector(image, score_threshold=middle)
    assert 0 < len(some) < len(everything)
    assert np.array_equal(some.scores, everything.scores[everything.scores >= middle])


def test_threads_share_a_detector(detector: Detector) -> None:
    # Several sizes: each has its own grid of positional embeddings to be cached.
    images = [noise_image(64 + 32 * (i % 3), 64 + 32 * (i % 2), seed=i) for i in range(12)]
    alone = [detector(image) for image in images]
    fresh = Detector(detector.model, classes=CLASSES, config=detector.config)
    fresh.model.train(False)  # empties the caches
    with ThreadPoolExecutor(max_workers=4) as threads:
        together = list(threads.map(fresh, images))
    assert all(_equal(a, b) for a, b in zip(alone, together))


def test_every_way_to_name_a_detector(tmp_path: Path, run_dir: Path, detector: Detector) -> None:
    image = noise_image(64, 64)
    expected = detector(image)
    tensors = torch.load(run_dir / "model_final.pth", weights_only=True)["model"]
    alone = tmp_path / "alone"
    alone.mkdir()
    save_file(tensors, alone / "ships.safetensors")
    (alone / "config.yaml").write_bytes((run_dir / "config.yaml").read_bytes())
    interrupted = tmp_path / "interrupted"
    interrupted.mkdir()
    torch.save({"model": tensors}, interrupted / "model_0000003.pth")
    torch.save({"model": {}}, interrupted / "model_0000001.pth")
    (interrupted / "last_checkpoint").write_text("model_0000003.pth")
    (interrupted / "config.yaml").write_bytes((run_dir / "config.yaml").read_bytes())
    (run_dir / "other.yaml").write_bytes((run_dir / "config.yaml").read_bytes())
    ways: list[tuple[Path, dict[str, Any]]] = [
        (run_dir / "model_final.pth", {}),
        (run_dir / "config.yaml", {}),
        (run_dir / "other.yaml", {"weights": run_dir / "model_final.pth"}),
        (alone, {}),
        (alone / "ships.safetensors", {}),
        (alone / "ships.safetensors", {"config_file": run_dir / "config.yaml"}),
        (interrupted, {}),
    ]
    for path, options in ways:
        other = Detector.from_pretrained(path, device="cpu", score_threshold=ALL_SCORES, **options)
        assert _equal(expected, other(image)), path


def test_python_configuration_and_its_copy(tmp_path: Path) -> None:
    overrides = [
        "train.device=cpu",
        *(
            "model.backbone.name=custom",
            "model.backbone.embed_dim=32",
            "model.backbone.vision_width=8",
        ),
        *("model.backbone.vision_layers=[1,1,1,1]", "model.backbone.text_width=32"),
        *("model.backbone.text_heads=1", "model.backbone.text_layers=1"),
        *("model.neck.out_channels=32", "model.head.channels=64", "model.head.num_convs=1"),
        *("model.tcm.decoder_width=32", "model.tcm.decoder_heads=2", "model.tcm.decoder_layers=1"),
    ]
    run = open_config(CONFIGS_DIR / "lazy/tcm_retinanet.py", overrides)
    model = run.build_model(with_part_weights=False)
    torch.save({"model": model.state_dict()}, tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(run.text)
    detector = Detector.from_pretrained(tmp_path, device="cpu")
    assert detector.classes[3] == "ground-track-field" and detector.config.window_px == 1024
    assert torch.equal(
        detector.model.state_dict()["tcm.context"], model.state_dict()["tcm.context"]
    )
    (tmp_path / "mine.py").write_text(f"from {CONFIGS_DIR.name} import nothing\n")
    with pytest.raises(ValueError, match=r"mine\.py: cannot be run"):
        Detector.from_pretrained(tmp_path / "mine.py")


def test_averaged_weights_are_used_where_the_run_evaluates_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", "SOLVER.EMA_DECAY", "0.9")
    tensors = torch.load(folder / "model_final.pth", weights_only=True)["model"]
    average = {name: t + 1 if name == "tcm.context" else t for name, t in tensors.items()}
    torch.save({"model": tensors, EMA_KEY: average}, folder / "model_final.pth")
    detector = Detector.from_pretrained(folder, device="cpu")
    assert torch.equal(detector.model.state_dict()["tcm.context"], average["tcm.context"])


def test_windows_default_to_the_size_that_the_model_was_trained_for(detector: Detector) -> None:
    assert detector.config.window_px == 64 and detector.config.overlap_px == 16
    assert detector.config.nms_iou_threshold == 0.1 and detector.config.seam_rule == "whole"


def test_tta_takes_the_views_of_the_configuration(run_dir: Path) -> None:
    detector = Detector.from_pretrained(run_dir, device="cpu", tta=True, score_threshold=0.0)
    assert isinstance(detector.model, RotatedTTA) and len(detector.model.config.views) == 8
    few = TTAConfig(flip=True, quarter_turns=[0], scales=[1.0], nms_threshold=0.1, merge="max")
    assert len(Detector.from_pretrained(run_dir, tta=few).model.config.views) == 2
    image = noise_image(64, 64)
    turned = detector(np.ascontiguousarray(np.rot90(image)))
    # All eight views are the same for the turned image: the answer turns with it.
    np.testing.assert_allclose(detector(image).scores, turned.scores, atol=1e-4)


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("nowhere/run", {}, r"'.*nowhere/run': no such file or folder \(nor is there a folder"),
        (
            "outt",
            {},
            r"'.*outt': no such file or folder; near matches: out; expected an output",
        ),
        ("out/source", {}, r"found no configuration \(config\.yaml, config_lazy\.yaml in .*source"),
        ("out/source/small.yaml", {}, r"a configuration without weights .* weights='model_final"),
        ("out", {"weights": "out/x.pth"}, r"weights 'out/x\.pth': no such file"),
        (
            "out/readme.md",
            {},
            r"expected a folder, a weight file \(.*\) or a configuration .*'\.md'",
        ),
        ("several", {}, r"holds several weight files \(a\.pth, b\.pth\); give the path of one"),
        ("empty", {}, r"found no weights .*has the training finished\?"),
        ("out", {"class_names": ["ship"]}, r"expected 2 names, .* got 1 \(ship\).*says: plane, sh"),
        ("out", {"class_names": "ab"}, r"class_names: expected a list of names, got the text 'ab'"),
        ("out", {"class_names": ["a", "a"]}, r"different names, got \['a'\] more than once"),
        ("out", {"device": "gpu"}, r"device: expected 'cuda', 'cuda:1' or 'cpu', got 'gpu'"),
        ("out", {"window_px": 8}, r"window_px: expected at least 32, got 8"),
        ("out", {"overlap_px": 64}, r"overlap_px: .* less than the window \(64\), got 64"),
        ("out", {"score_threshold": 30}, r"score_threshold: expected 0\.\.1, got 30"),
        ("out", {"batch_size": 0}, r"batch_size: expected at least 1, got 0"),
    ],
)
def test_refusals_of_a_detector(
    path: str,
    options: dict[str, Any],
    message: str,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(run_dir.parent)
    for name in ("several", "empty"):
        Path(name).mkdir(exist_ok=True)
        Path(name, "config.yaml").write_bytes((run_dir / "config.yaml").read_bytes())
    for name in ("several/a.pth", "several/b.pth", "out/readme.md"):
        Path(name).touch()
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        Detector.from_pretrained(path, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_explained(run_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"device: 'cuda' asked for, but torch .*device='cpu'"):
        Detector.from_pretrained(run_dir, device="cuda")


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), {}, r"image: expected uint8, got float32; scale"),
        (np.zeros((3, 64, 64), np.uint8), {}, r"got \(3, 64, 64\); channels come last"),
        (np.zeros((8, 8, 5), np.uint8), {}, r"expected shape .* got \(8, 8, 5\)"),
        (np.zeros((8, 8, 3), np.uint8), {"channel_order": "GBR"}, r"expected 'RGB' or 'BGR'"),
        (np.zeros((8, 8, 3), np.uint8), {"bands": (1,)}, r"bands: only for files"),
        (3, {}, r"image: expected a path, a uint8 array \(H, W, 3\), a tensor .* got int"),
        ("nothing.png", {}, r"nothing\.png: expected an image file, found nothing"),
    ],
)
def test_refusals_of_a_picture(
    image: Any, options: dict[str, Any], message: str, detector: Detector
) -> None:
    with pytest.raises((FileNotFoundError, TypeError, ValueError), match=message):
        detector(image, **options)


class _SmallMemory(nn.Module):
    """A model that has memory for so many windows at once."""

    def __init__(self, model: nn.Module, limit: int) -> None:
        super().__init__()
        self.model, self.limit, self.sizes = model, limit, []

    def forward(self, batch: list[Any]) -> Any:
        self.sizes.append(len(batch))
        if len(batch) > self.limit:
            raise torch.OutOfMemoryError("too much")
        return self.model(batch)


def test_batch_is_halved_while_memory_is_short(detector: Detector) -> None:
    image = noise_image(64, 240)  # 5 windows
    config = WindowConfig(**{**vars(detector.config), "batch_size": 5})
    model = _SmallMemory(detector.model, 2)
    small = Detector(model, classes=CLASSES, config=config)
    found = small(image)
    assert model.sizes == [5, 3, 2, 1, 2]
    np.testing.assert_allclose(found.scores, detector(image).scores, rtol=1e-5)
    broke = Detector(_SmallMemory(detector.model, 0), classes=CLASSES, config=config)
    with pytest.raises(MemoryError, match=r"out of memory on cpu with one window of 64 x 64 px;"):
        broke(image)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_finds_what_the_cpu_finds(run_dir: Path, detector: Detector) -> None:
    image = noise_image(150, 100)
    on_gpu = Detector.from_pretrained(run_dir, device="cuda", score_threshold=ALL_SCORES)(image)
    np.testing.assert_allclose(on_gpu.scores, detector(image).scores, rtol=1e-3)
