"""A trained detector as an object to call with pictures.

from tcm_d2 import Detector
detector = Detector.from_pretrained("output/tcm_fcos")
detections = detector("harbour.png")
print(detections.class_names, detections.boxes)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tcm_d2.data.raster_reader.colors import UInt8Array
from tcm_d2.export.backends import check_backend, export_network
from tcm_d2.inference.find_files import find_detector_files
from tcm_d2.inference.inputs import (
    ImageLike,
    PathLike,
    expand_inputs,
    image_id_of,
    is_pattern,
    to_array,
)
from tcm_d2.inference.large_image import ResumeFile, WindowConfig
from tcm_d2.inference.model_images import ChannelOrder, to_model_image
from tcm_d2.inference.pretrained import build_pretrained
from tcm_d2.inference.rasters import Scene, array_scene, open_scene
from tcm_d2.inference.results import Detections
from tcm_d2.inference.scales import detect_at_scales
from tcm_d2.inference.seams import SeamRule
from tcm_d2.inference.speed import make_fast
from tcm_d2.inference.tta import RotatedTTA, TTAConfig, read_views
from tcm_d2.structures.detections import BoxDetections

logger = logging.getLogger(__name__)

# Scores from which detections are shown; the metrics of a data set want all, from 0.05 on.
DEFAULT_SCORE_THRESHOLD = 0.3
# Where a model says nothing about the size of its training images.
DEFAULT_WINDOW_PX = 1024
# Part of a window that its neighbour sees too.
_OVERLAP_FRACTION = 0.25
DEFAULT_BATCH_SIZE = 4
_STRIDE_PX = 32


class Detector:
    """A detector for pictures of any size: larger ones than a window are cut and put together.

    Several threads may call one detector. The model is in evaluation mode and must stay so.

    Attributes:
        model: batch of dicts -> list of ``{"instances": Instances}``.
        classes: class names in label order.
        config: windows and thresholds.
        device: of the model.
        identity: changes with the files the detector was loaded from.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: Sequence[str],
        config: WindowConfig,
        image_format: str = "RGB",
        resize_factor: float = 1.0,
        identity: str = "",
    ) -> None:
        """Wrap a model that is built already; `from_pretrained` does so for files.

        Args:
            model: as `RotatedOneStageDetector`; set to evaluation and made fast here.
            classes: class names in label order.
            config: windows and thresholds.
            image_format: order of the channels that the model expects, "RGB" or "BGR".
            resize_factor: on windows before the model sees them.
            identity: a text that tells this detector from others.
        """
        self.model = model.eval()
        make_fast(model)
        self.classes = tuple(classes)
        self.config = config
        self._image_format = image_format
        self._resize_factor = resize_factor
        self.identity = identity
        # Networks that other programs run have no parameters, and run on the CPU.
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))

    @classmethod
    def from_pretrained(
        cls,
        path: PathLike,
        *,
        weights: PathLike | None = None,
        config_file: PathLike | None = None,
        device: str | torch.device | None = None,
        score_threshold: float | None = None,
        class_names: Sequence[str] | None = None,
        prompts: Sequence[str] | None = None,
        window_px: int | None = None,
        overlap_px: int | None = None,
        scales: Sequence[float] | None = None,
        batch_size: int | None = None,
        seam_rule: SeamRule = "whole",
        tta: bool | TTAConfig = False,
        backend: str = "torch",
    ) -> Detector:
        """Load a trained detector; no code in weights is run, and only hf:// may be downloaded.

        Args:
            path: the output folder of a training; or weights (.pth, .safetensors) with their
                ``config.yaml`` beside them, or with it inside (convert_checkpoint.py
                --for-inference); or the checkpoint of a published detector of mmrotate
                (docs/published_detectors.md); or a configuration (.yaml, .py) whose weights are
                named in it, lie beside it or are given; or "tcm_atss_embedded", a small detector
                in this package that learned from renders alone; or weights with a configuration
                inside on the Hugging Face Hub, ``hf://owner/name@revision/file#sha256=...``
                (docs/weights.md).
            weights: a weight file, where ``path`` is not one.
            config_file: the configuration, where it does not lie beside the weights.
            device: "cuda", "cuda:1", "cpu"; None takes CUDA where there is one.
            score_threshold: lower scores are left out; None is 0.3. Metrics want 0.05.
            class_names: names in label order; None takes those of the configuration. A detector
                trained with MODEL.ROTATED_HEAD.CLASSIFIER "text" finds whatever is named here
                (docs/open_vocabulary.md).
            prompts: what the text tower reads for the classes, in label order: other words for
                the same classes (docs/fast_tcm.md). None takes those of the configuration.
            window_px: side of the windows into which larger pictures are cut; None takes that of
                the images it was trained on or, where the configuration does not say it, the
                size that the model was made for.
            overlap_px: of the windows, more than the longest object; None is a quarter.
            scales: factors on the sides of the picture at which it is looked at, as (0.5, 1, 2):
                objects of more sizes are found, in 0.25 + 1 + 4 times the time. None takes the
                configuration's (TEST.WINDOW_SCALES), 1 where nothing else is said.
            batch_size: windows at once; None is 4. It is halved while memory is short.
            seam_rule: "whole" prefers objects that no seam cuts, "nms" is plain suppression.
            tta: True looks at several views of each window as TEST.TTA of the configuration
                says, 8 times slower by default; or the views themselves.
            backend: what runs the network: "torch", or on the CPU "onnxruntime" or "openvino",
                which need no compiled operators; the network is exported here, which takes a
                minute (docs/export.md).

        Raises:
            FileNotFoundError: a file is not there; says what was looked for.
            ImportError: a package that the backend needs is missing; says which.
            ValueError: a file, the device or another argument does not fit; says what to do.
        """
        if backend != "torch":
            check_backend(backend)
            if device is not None and torch.device(device).type != "cpu":
                raise ValueError(f"device: expected 'cpu' for {backend!r}, got {device!r}")
            device = "cpu"
        sources = find_detector_files(path, weights=weights, config_file=config_file)
        trained = build_pretrained(sources, device=device, class_names=class_names, prompts=prompts)
        model = trained.model
        trained_px = trained.patch_size_px or trained_size_px(model)
        window = trained_px if window_px is None else window_px
        if trained.patch_size_px not in (0, window):
            logger.warning(
                "windows of %d px, while the images it was trained on have %d; without window_px "
                "(--window) they are the same",
                window,
                trained.patch_size_px,
            )
        config = WindowConfig(
            window_px=window,
            overlap_px=round(window * _OVERLAP_FRACTION) if overlap_px is None else overlap_px,
            batch_size=DEFAULT_BATCH_SIZE if batch_size is None else batch_size,
            score_threshold=DEFAULT_SCORE_THRESHOLD if score_threshold is None else score_threshold,
            nms_iou_threshold=trained.merge_nms_threshold,
            seam_rule=seam_rule,
            scales=tuple(trained.window_scales if scales is None else map(float, scales)),
        )
        if backend != "torch":
            model = export_network(model, backend, image_format=trained.image_format)
        if tta:
            views = tta if isinstance(tta, TTAConfig) else read_views(trained.views)
            model = RotatedTTA(model, views)
        return cls(
            model,
            classes=trained.classes,
            config=config,
            image_format=trained.image_format,
            resize_factor=trained.resize_factor,
            identity=_identity(*sources, getattr(model, "config", None)),
        )

    @overload
    def __call__(
        self,
        images: ImageLike,
        *,
        channel_order: ChannelOrder = ...,
        score_threshold: float | None = ...,
        show_progress: bool = ...,
        **read_options: Any,
    ) -> Detections: ...

    @overload
    def __call__(
        self,
        images: Sequence[ImageLike],
        *,
        channel_order: ChannelOrder = ...,
        score_threshold: float | None = ...,
        show_progress: bool = ...,
        **read_options: Any,
    ) -> list[Detections]: ...

    @overload
    def __call__(
        self,
        images: Iterable[ImageLike],
        *,
        channel_order: ChannelOrder = ...,
        score_threshold: float | None = ...,
        show_progress: bool = ...,
        **read_options: Any,
    ) -> Iterator[Detections]: ...

    def __call__(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        channel_order: ChannelOrder = "RGB",
        score_threshold: float | None = None,
        show_progress: bool = False,
        **read_options: Any,
    ) -> Detections | list[Detections] | Iterator[Detections]:
        """Detect in a picture, or in each of several.

        Args:
            images: a file; an array uint8 (H, W, 3), (H, W) grey or (H, W, 4) with alpha, which
                is dropped; a tensor (3, H, W) likewise; an image of PIL's. Or several: a list, a
                folder, a pattern ``"scenes/*.tif"``, a batch (N, 3, H, W); or anything to iterate
                over, such as a generator.
            channel_order: of arrays and tensors: "RGB", or "BGR" as OpenCV reads them. Files and
                PIL's images say it themselves.
            score_threshold: None takes the detector's.
            show_progress: a bar with the time left for pictures of many windows.
            read_options: for files: ``bands``, ``value_range``, ``apply_exif``, ``crs``; see
                `open_scene`.

        Returns:
            `Detections` of a picture; a list of them for a list, a folder, a pattern or a batch;
            an iterator for other iterables, which detects as it is asked.

        Raises:
            FileNotFoundError: no such file, or no image in a folder or for a pattern.
            TypeError, ValueError: a picture that cannot be used; says why.
            MemoryError: the device's memory is too small for one window.
        """
        options = {
            "channel_order": channel_order,
            "score_threshold": score_threshold,
            "show_progress": show_progress,
            **read_options,
        }
        if isinstance(images, (str, os.PathLike)):
            if is_pattern(images) or Path(images).expanduser().is_dir():
                return list(self._each(expand_inputs([images]), options))
        elif isinstance(images, Tensor) and images.ndim == 4:
            return list(self._each(images, options))
        elif not isinstance(images, (np.ndarray, Tensor, Image.Image)) and isinstance(
            images, Iterable
        ):
            several = self._each(images, options)
            return list(several) if isinstance(images, (list, tuple)) else several
        config = self.config
        if score_threshold is not None:
            config = replace(config, score_threshold=score_threshold)
        if isinstance(images, (str, os.PathLike)):
            with open_scene(images, **read_options) as scene:
                return self.detect(
                    scene,
                    config=config,
                    path=os.fspath(images),
                    show_progress=show_progress,
                    read_options=read_options,
                )
        if read_options:
            raise TypeError(f"{', '.join(read_options)}: only for files, not for arrays")
        order = "RGB" if isinstance(images, Image.Image) else channel_order
        array = array_scene(to_array(images), channel_order=order)
        found = self.detect(array, config=config, show_progress=show_progress)
        return replace(found, image_id=image_id_of(images), _image=array.rgb)

    def _each(self, images: Iterable[Any], options: dict[str, Any]) -> Iterator[Detections]:
        """Yield the results of each picture; folders and patterns give one for each of theirs."""
        for image in images:
            found = self(image, **options)
            if isinstance(found, Detections):
                yield found
            else:
                yield from found

    def detect(
        self,
        scene: Scene,
        *,
        config: WindowConfig | None = None,
        path: str = "",
        show_progress: bool = False,
        resume: ResumeFile | None = None,
        read_options: dict[str, Any] | None = None,
    ) -> Detections:
        """Detect in an opened picture.

        Args:
            scene: see `open_scene`.
            config: None takes the detector's.
            path: of the file, for the results.
            show_progress, resume: see `detect_at_scales`.
            read_options: how the file was opened, so that `Detections.draw` can do it again.
        """
        found = detect_at_scales(
            self.detect_windows,
            scene,
            self.config if config is None else config,
            show_progress=show_progress,
            resume=resume,
        )
        return Detections(
            boxes=found.boxes,
            scores=found.scores,
            class_ids=found.class_ids,
            classes=self.classes,
            image_size_hw=scene.size_hw,
            image_id=Path(path).stem if path else "array",
            path=path,
            geo=scene.geo,
            read_options=dict(read_options or {}),
        )

    def detect_windows(self, windows: Sequence[UInt8Array]) -> list[BoxDetections]:
        """Return the model's detections in windows, RGB (h, w, 3) uint8 of one size.

        Raises:
            MemoryError: the device's memory is too small for one window.
        """
        try:
            return self._forward(windows)
        except torch.OutOfMemoryError:
            is_single = len(windows) == 1
        # Outside the except clause: the error holds the tensors of the failed pass.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if is_single:
            height, width = windows[0].shape[:2]
            raise MemoryError(
                f"out of memory on {self.device} with one window of {width} x {height} px; use "
                "smaller ones (window_px=512, --window 512), no test-time augmentation at scales "
                "above 1, or device='cpu'"
            )
        half = (len(windows) + 1) // 2
        logger.warning(
            "out of memory on %s with %d windows at once: trying %d; batch_size=%d (--batch-size) "
            "avoids the attempt",
            self.device,
            len(windows),
            half,
            half,
        )
        return self.detect_windows(windows[:half]) + self.detect_windows(windows[half:])

    @torch.no_grad()
    def _forward(self, windows: Sequence[UInt8Array]) -> list[BoxDetections]:
        inputs = []
        for window in windows:
            image = to_model_image(
                window, image_format=self._image_format, resize_factor=self._resize_factor
            )  # (3, h, w)
            inputs.append(
                {
                    "image": image.to(self.device),
                    "height": window.shape[0],
                    "width": window.shape[1],
                }
            )
        found = []
        for output in self.model(inputs):
            instances = output["instances"]
            found.append(
                BoxDetections(
                    instances.pred_boxes.tensor.double().cpu().numpy(),
                    instances.scores.double().cpu().numpy(),
                    instances.pred_classes.cpu().numpy(),
                )
            )
        return found


def _identity(config: Path, weights: Path, views: object) -> str:
    stats = [(os.fspath(path.resolve()), path.stat().st_mtime_ns) for path in (config, weights)]
    return repr((stats, views))


def trained_size_px(model: nn.Module) -> int:
    """Return the side of the images that a model was made for, by its positional embedding."""
    pool = getattr(model, "attention_pool", None)
    if pool is None:
        return DEFAULT_WINDOW_PX
    num_cells = int(pool.positional_embedding.shape[0]) - 1
    side: int = round(num_cells**0.5) * _STRIDE_PX
    return side
