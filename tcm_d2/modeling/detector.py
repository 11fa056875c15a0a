"""The detector: images -> backbone -> (TCM) -> pyramid -> head -> losses or Instances.

Shape letters: N images, C joint width of CLIP, K classes, H x W the stride-32 grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList
from omegaconf import DictConfig
from torch import Tensor, nn

from tcm_d2.config.nodes import configurable_with_nodes, part_node
from tcm_d2.config.registries import ROTATED_HEAD_REGISTRY
from tcm_d2.modeling.class_text import ClassText, ClassTextConfig
from tcm_d2.modeling.clip.text import LABEL_FIELD, format_prompts
from tcm_d2.modeling.clip.towers import take_text_side
from tcm_d2.modeling.dense.decode import rescale
from tcm_d2.modeling.dense.normalizers import mean_over_ranks
from tcm_d2.modeling.fixed_text import FIXED_TEXT_MESSAGE, FixedClassText, fix_class_text
from tcm_d2.modeling.heads.classifiers import ClassWords, connect_text, reads_text
from tcm_d2.modeling.neck.fpn import FPNConfig
from tcm_d2.modeling.tcm.matching import join_score_map, score_map_loss
from tcm_d2.modeling.tcm.tcm import TCM, TCMConfig

# Inputs are padded to a multiple of it: the coarsest stride of a ResNet.
SIZE_DIVISIBILITY_PX = 32
# What torch.compile makes kernels with; tests take one that is done in seconds.
COMPILE_BACKEND = "inductor"
# Names of the detector, and the head that each stands for where MODEL.ROTATED_HEAD.NAME is "".
HEADS_OF_ALIASES = {
    "TCMRotatedFCOS": "RotatedFCOSHead",
    "TCMRotatedATSS": "RotatedATSSHead",
    "TCMRotatedRetinaNet": "RotatedRetinaNetHead",
}


class PromptedFeatures(NamedTuple):
    """What the head gets, and the score map.

    Attributes:
        pyramid: one (N, O, ., .) map per level, fine to coarse.
        score_map_NKHW: None without TCM.
        words: of the classes, for a head that reads them, else None.
    """

    pyramid: list[Tensor]
    score_map_NKHW: Tensor | None
    words: ClassWords | None


@META_ARCH_REGISTRY.register()
class RotatedOneStageDetector(nn.Module):
    """A backbone, optionally prompted by text (TCM), with a pyramid and a rotated one-stage head.

    This class only connects them. Without ``tcm`` it is a plain detector, on any backbone.

    Attributes:
        is_open_vocabulary: whether the head reads class embeddings, so that the list of classes may
            change at any time. The pyramid then gets the maximum of the score map over the classes,
            one channel, in place of one for each of them.
        untrained: classes that the detector was not trained on; see `set_class_names`.
    """

    text_encoder: ClassText | FixedClassText | None

    @configurable_with_nodes
    def __init__(
        self,
        *,
        head: nn.Module,
        backbone: Backbone,
        class_text: ClassTextConfig | None,
        tcm: TCMConfig | None,
        neck: FPNConfig,
        pixel_mean: list[float],
        pixel_std: list[float],
        aux_loss_weight: float,
        aux_stride_px: int,
        channels_last: bool,
        checkpoint_activations: bool,
        compile_training: bool,
        compile_inference: bool,
    ) -> None:
        """Args, of which the first five make random numbers in this order:
        head: see `RotatedHead`.
        backbone: images (N, 3, H, W) -> maps by name; CLIP's where ``tcm`` is used.
        class_text: what the text tower reads; goes with ``tcm``.
        tcm: text prompts and score map; None for a plain detector.
        neck: which of the backbone's outputs the pyramid takes, and what it makes of them.
        pixel_mean: per channel, on values 0..255, in the order of the input's channels.
        pixel_std: likewise.
        aux_loss_weight: weight of the loss on the score map.
        aux_stride_px: pixels per cell of the class masks that this loss compares with.
        channels_last: keep convolution weights, and by them all maps, in this layout.
        checkpoint_activations: run the image tower's blocks and the head's towers again in the
            backward pass instead of keeping their maps.
        compile_training: let torch.compile make one graph of `dense_output` in training.
        compile_inference: likewise in evaluation.

        Raises:
            ValueError: two parts do not fit together.
        """
        super().__init__()
        if (class_text is None) != (tcm is None):
            raise ValueError("class_text and tcm: expected both or none (None) of them")
        # The state dict has the parts in this order.
        self.backbone = backbone
        text_side = take_text_side(backbone, is_needed=tcm is not None)
        self.attention_pool, self.text_encoder, self.tcm = None, None, None
        if tcm is not None and class_text is not None:
            self.attention_pool = text_side.attention_pool
            self.text_encoder = ClassText(text_side.clip, class_text, num_classes=head.num_classes)
            self.tcm = TCM(
                tcm,
                joint_width=text_side.joint_width,
                token_width=text_side.token_width,
                num_context=self.text_encoder.num_context,
            )
            context = self.text_encoder.initial_context()
            if context is not None:
                self.tcm.context = nn.Parameter(context.clone())
        self.score_map_level = neck.in_features[-1]
        self.is_open_vocabulary = reads_text(head)
        self.untrained: tuple[int, ...] = ()
        if self.is_open_vocabulary:
            if text_side is None:
                raise ValueError(
                    "classifier: 'text' needs the class embeddings of TCM; set MODEL.TCM.ENABLED "
                    "True, or MODEL.ROTATED_HEAD.CLASSIFIER 'linear'"
                )
            connect_text(head, text_side.joint_width)
        joined_channels = 0 if tcm is None else 1 if self.is_open_vocabulary else head.num_classes
        self.neck = neck.build(backbone.output_shape(), joined_channels=joined_channels)
        self.head = head
        strides_px = [shape.stride for shape in self.neck.output_shape()]
        if list(head.strides_px) != strides_px:
            raise ValueError(
                f"head.strides_px: expected {strides_px}, those of the pyramid, got "
                f"{list(head.strides_px)}; set MODEL.ROTATED_HEAD.STRIDES_PX or "
                "MODEL.ROTATED_FPN.IN_FEATURES"
            )
        self.aux_loss_weight = aux_loss_weight
        self.aux_stride_px = aux_stride_px
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        for module in (backbone, *head.modules()):
            if hasattr(module, "checkpoint_activations"):
                module.checkpoint_activations = checkpoint_activations
        self.compile_training = compile_training
        self.compile_inference = compile_inference
        self._compiled: Callable[..., tuple[Any, Tensor | None]] | None = None
        if channels_last:
            self.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments, as plain values and nodes.

        Raises:
            ValueError: a part is named that is not registered.
        """
        model = cfg.MODEL
        class_text, tcm = None, None
        if model.TCM.ENABLED:
            class_text = L(ClassTextConfig)(**ClassTextConfig.from_config(cfg))
            tcm = L(TCMConfig)(**TCMConfig.from_config(cfg))
        image, key = ShapeSpec(channels=len(model.PIXEL_MEAN)), "MODEL.BACKBONE.NAME"
        return {
            "head": head_node(cfg),
            "backbone": part_node(BACKBONE_REGISTRY, model.BACKBONE.NAME, cfg, image, key=key),
            "class_text": class_text,
            "tcm": tcm,
            "neck": L(FPNConfig)(**FPNConfig.from_config(cfg)),
            "pixel_mean": model.PIXEL_MEAN,
            "pixel_std": model.PIXEL_STD,
            "aux_loss_weight": model.TCM.AUX_LOSS_WEIGHT,
            "aux_stride_px": model.TCM.AUX_STRIDE_PX,
            "channels_last": model.CHANNELS_LAST,
            "checkpoint_activations": model.CHECKPOINT_ACTIVATIONS,
            "compile_training": cfg.TRAIN.COMPILE,
            "compile_inference": cfg.TEST.COMPILE,
        }

    @property
    def device(self) -> torch.device:
        """Device of the parameters; inputs are moved there."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """Return losses in training, detections otherwise.

        Args:
            batched_inputs: one dict per image with ``image`` (3, H, W), values 0..255, any dtype;
                in training ``instances`` with ``gt_boxes`` (RotatedBoxes, image pixels) and
                ``gt_classes``, and ``class_masks`` bool (K, H // 4, W // 4) where TCM is on; in
                evaluation optionally ``height`` and ``width``, the size to which boxes are scaled.

        Returns:
            In training a dict of scalar losses; else a list of ``{"instances": Instances}`` with
            ``pred_boxes``, ``scores``, ``pred_classes``, by descending score. Boxes may reach over
            the image's border.

        Raises:
            ValueError: in training, when the text is fixed.
        """
        if self.training and self.has_fixed_text:
            raise ValueError(FIXED_TEXT_MESSAGE)
        images = self.preprocess_images(batched_inputs)
        run = self.dense_output
        if self.compile_training if self.training else self.compile_inference:
            run = self._compiled_dense_output()
        output, score_map_NKHW = run(images.tensor, self._text_without_image())
        if not self.training:
            detections = self.head.predict(output, images.image_sizes)
            return [
                {"instances": rescale(instances, inputs)}
                for instances, inputs in zip(detections, batched_inputs, strict=True)
            ]
        ground_truths = [inputs["instances"] for inputs in batched_inputs]
        losses = self.head.losses(
            output,
            [self._send(g.gt_boxes.tensor) for g in ground_truths],
            [self._send(g.gt_classes) for g in ground_truths],
        )
        if score_map_NKHW is not None:
            masks = self._stack_class_masks(batched_inputs, images.tensor.shape[-2:])
            losses["loss_score_map"] = self.aux_loss_weight * score_map_loss(
                score_map_NKHW, masks, mean_over_ranks=mean_over_ranks
            )
        return losses

    def preprocess_images(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Return the normalised images, padded with zeros to one size."""
        images = [
            (self._send(inputs["image"]).to(self.pixel_mean) - self.pixel_mean) / self.pixel_std
            for inputs in batched_inputs
        ]
        return ImageList.from_tensors(images, SIZE_DIVISIBILITY_PX)

    def features(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Return the pyramid levels and the score map (None without TCM).

        Args:
            images: (N, 3, H, W) normalised; H and W multiples of 32.
        """
        found = self.features_with_text(images, self._text_without_image())
        return found.pyramid, found.score_map_NKHW

    def dense_output(self, images: Tensor, text: Tensor | None) -> tuple[Any, Tensor | None]:
        """Return the head's raw output and the score map (None without TCM).

        Args:
            images, text: see `features_with_text`.
        """
        found = self.features_with_text(images, text)
        words = () if found.words is None else (found.words,)
        return self.head(found.pyramid, *words), found.score_map_NKHW

    def features_with_text(self, images: Tensor, text: Tensor | None) -> PromptedFeatures:
        """Return what the head gets, and the score map, from class embeddings that are given.

        Nothing is kept or looked up on the way: this is what can be compiled and exported.

        Args:
            images: see `features`.
            text: (K, C) from `class_embeddings`; None where the prompts depend on the images, and
                without TCM.
        """
        features = self.backbone(images)
        level, score_map_NKHW, words = self.score_map_level, None, None
        if self.tcm is not None:
            tokens = self.attention_pool(features[level])
            if text is None:
                text = self.text_encoder.encode(self.tcm, tokens.global_NC)
            matched = self.tcm(tokens.global_NC, tokens.dense_NCHW, text)
            joined = score_map_NKHW = matched.score_map_NKHW
            if self.is_open_vocabulary:
                untrained = () if self.training else self.untrained
                words = ClassWords(
                    matched.text_NKC, self.head.num_classes, untrained, score_map_NKHW
                )
                joined = score_map_NKHW[:, words.trained_rows].amax(dim=1, keepdim=True)
                score_map_NKHW = score_map_NKHW[:, : words.num_classes]
            features[level] = join_score_map(features[level], joined)
        return PromptedFeatures(self.neck(features), score_map_NKHW, words)

    def _text_without_image(self) -> Tensor | None:
        """Return the class embeddings, or None where there are none or images change them."""
        if self.tcm is None or self.tcm.text_needs_image:
            return None
        return self.class_embeddings()

    def _compiled_dense_output(self) -> Callable[..., tuple[Any, Tensor | None]]:
        if self._compiled is None:
            self._compiled = torch.compile(
                self.dense_output, fullgraph=True, backend=COMPILE_BACKEND
            )
        return self._compiled

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold: what was compiled belongs to this object."""
        return {**self.__dict__, "_compiled": None}

    def _send(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` on this device; the host does not wait for the copy."""
        return tensor.to(self.device, non_blocking=True)

    def class_embeddings(self) -> Tensor:
        """Return the class embeddings (K, C) as TCM takes them; see `ClassText.embeddings`."""
        return self._text().embeddings(self.tcm)

    def set_class_names(self, class_names: Sequence[str], *, template: str) -> None:
        """Let the text tower read other names; see `ClassText.set_class_names`.

        With an open vocabulary the trained classes are read behind them, also where they are not
        asked for: by these the head tells where an object is, and the score map what it is not.

        Raises:
            ValueError: the names do not fit, or differ in number where the vocabulary is closed.
        """
        text, num_classes = self._text(), self.head.num_classes
        if not self.is_open_vocabulary and len(class_names) != num_classes:
            raise ValueError(
                f"class names: expected {num_classes}, got {len(class_names)}; names can be "
                "changed, their number cannot: the head's class convolution has that many outputs, "
                "and the pyramid takes that many channels of score map; with "
                "MODEL.ROTATED_HEAD.CLASSIFIER 'text' in training it could"
            )
        prompts = format_prompts(class_names, template)
        trained = text.trained_prompts if self.is_open_vocabulary else ()
        others = [prompt for prompt in trained if prompt not in prompts]
        text.set_class_names([*prompts, *others], template=LABEL_FIELD)
        if self.is_open_vocabulary:
            self.untrained = tuple(i for i, p in enumerate(prompts) if p not in trained)
            self.head.num_classes = len(prompts)

    @property
    def has_fixed_text(self) -> bool:
        """Whether class embeddings are constants: the model then has no text tower."""
        return isinstance(self.text_encoder, FixedClassText)

    @torch.no_grad()
    def fix_text(
        self, features: Tensor | None = None, class_token_ids: Tensor | None = None
    ) -> None:
        """Hold the class embeddings as constants, for inference only; see `fix_class_text`.

        The model is in evaluation mode afterwards.
        """
        text = self._text()
        self.eval()
        self.text_encoder = fix_class_text(text, self.tcm, features, class_token_ids)

    def _text(self) -> ClassText | FixedClassText:
        if self.text_encoder is None:
            raise ValueError(
                "this detector has no text (MODEL.TCM.ENABLED is False): it has no class "
                "embeddings, and names cannot change what it finds"
            )
        return self.text_encoder

    def _stack_class_masks(
        self, batched_inputs: list[dict[str, Any]], padded_hw: tuple[int, int]
    ) -> Tensor:
        """Return the class masks as one bool (N, K, h, w), empty where images are padded."""
        masks = [self._send(inputs["class_masks"]) for inputs in batched_inputs]
        height, width = padded_hw[0] // self.aux_stride_px, padded_hw[1] // self.aux_stride_px
        return torch.stack(
            [F.pad(m, (0, width - m.shape[-1], 0, height - m.shape[-2])) for m in masks]
        )


def head_node(cfg: CfgNode) -> DictConfig:
    """Return the node of the head that a configuration asks for.

    Raises:
        ValueError: no head is named, or one that is not registered.
    """
    head = cfg.MODEL.ROTATED_HEAD
    name = head.NAME or HEADS_OF_ALIASES.get(cfg.MODEL.META_ARCHITECTURE, "")
    channels = cfg.MODEL.ROTATED_FPN.OUT_CHANNELS
    shapes = [ShapeSpec(channels=channels, stride=stride_px) for stride_px in head.STRIDES_PX]
    return part_node(ROTATED_HEAD_REGISTRY, name, cfg, shapes, key="MODEL.ROTATED_HEAD.NAME")


for _alias in HEADS_OF_ALIASES:
    META_ARCH_REGISTRY._do_register(_alias, RotatedOneStageDetector)
