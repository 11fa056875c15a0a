"""The detector as a whole, small: modes, frames, gradients, and that it learns."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances, RotatedBoxes

import tcm_d2.modeling  # noqa: F401  registers the meta-architectures
from tcm_d2.config import get_tcm_config
from tcm_d2.modeling.dense.decode import rescale
from tcm_d2.modeling.detector import RotatedOneStageDetector
from tcm_d2.modeling.neck.fpn import FPNConfig
from tcm_d2.modeling.tcm.tcm import TCMConfig
from tcm_d2.ops import paired_iou_rotated
from tcm_d2.structures.masks import boxes_to_class_masks

SIZE = 128


def tiny_config(
    *, tcm: bool = True, prompt_generator: str = "none", classifier: str = "linear"
) -> CfgNode:
    cfg = get_tcm_config()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "TCMRotatedFCOS"
    cfg.MODEL.CLIP.NAME = "custom"
    cfg.MODEL.CLIP.EMBED_DIM = 32
    cfg.MODEL.CLIP.VISION_LAYERS = [1, 1, 1, 1]
    cfg.MODEL.CLIP.VISION_WIDTH = 8
    cfg.MODEL.CLIP.TEXT_WIDTH = 32
    cfg.MODEL.CLIP.TEXT_HEADS = 1
    cfg.MODEL.CLIP.TEXT_LAYERS = 1
    cfg.MODEL.CLIP.POSITION_IMAGE_SIZE_PX = 128
    cfg.MODEL.TCM.ENABLED = tcm
    cfg.MODEL.TCM.PROMPT_GENERATOR = prompt_generator
    cfg.MODEL.TCM.CLASS_NAMES = ["plane", "ship"]
    cfg.MODEL.TCM.DECODER_WIDTH = 32
    cfg.MODEL.TCM.DECODER_LAYERS = 1
    cfg.MODEL.TCM.DECODER_DROPOUT = 0.0
    cfg.MODEL.ROTATED_FPN.OUT_CHANNELS = 32
    cfg.MODEL.ROTATED_HEAD.NUM_CLASSES = 2
    cfg.MODEL.ROTATED_HEAD.CHANNELS = 32
    cfg.MODEL.ROTATED_HEAD.NUM_CONVS = 1
    cfg.MODEL.ROTATED_HEAD.CLASSIFIER = classifier
    return cfg


def make_input(boxes: list[list[float]], classes: list[int], size_hw=(SIZE, SIZE)) -> dict:
    """An image with flat turned rectangles, bright for class 0 and dark for class 1."""
    tensor = torch.tensor(boxes).reshape(-1, 5)
    labels = torch.tensor(classes, dtype=torch.int64)
    fine = boxes_to_class_masks(tensor, labels, num_classes=2, image_size_hw=size_hw, stride_px=1)
    image = torch.full((3, *size_hw), 110, dtype=torch.uint8)
    image[:, fine[0]] = 230
    image[:, fine[1]] = 10
    instances = Instances(size_hw)
    instances.gt_boxes = RotatedBoxes(tensor)
    instances.gt_classes = labels
    masks = boxes_to_class_masks(tensor, labels, num_classes=2, image_size_hw=size_hw, stride_px=4)
    return {"image": image, "instances": instances, "class_masks": masks}


def two_inputs() -> list[dict]:
    first = make_input([[40.0, 40.0, 50.0, 20.0, 30.0], [90.0, 90.0, 40.0, 24.0, -40.0]], [0, 1])
    second = make_input([[70.0, 50.0, 60.0, 26.0, -75.0]], [1])
    return [first, second]


@pytest.mark.parametrize("prompt_generator", ["none", "image"])
def test_gradient_reaches_every_trainable_parameter(prompt_generator: str) -> None:
    model = build_model(tiny_config(prompt_generator=prompt_generator)).train()
    losses = model(two_inputs())
    assert set(losses) == {"loss_cls", "loss_box", "loss_centerness", "loss_score_map"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
        else:
            assert name.startswith("text_encoder.")


def test_without_tcm_it_is_a_plain_detector() -> None:
    model = build_model(tiny_config(tcm=False)).train()
    names = [name for name, _ in model.named_parameters()]
    assert not any(n.startswith(("tcm.", "text_encoder.", "attention_pool.")) for n in names)
    losses = model([{k: v for k, v in i.items() if k != "class_masks"} for i in two_inputs()])
    assert set(losses) == {"loss_cls", "loss_box", "loss_centerness"}


@pytest.mark.parametrize("classifier", ["linear", "text"])
def test_overfits_two_images(classifier: str) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_config(classifier=classifier)).train()
    inputs = two_inputs()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=4e-3)
    for _ in range(60):
        optimizer.zero_grad()
        total = sum(model(inputs).values())
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
    # Batch statistics of two images, not the running ones, so that 60 steps are enough.
    model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
    with torch.no_grad():
        outputs = model(inputs)
    for output, target in zip(outputs, inputs, strict=True):
        found, truth = output["instances"], target["instances"]
        best = found[: len(truth)]
        order = best.pred_classes.argsort()
        assert best.pred_classes[order].tolist() == truth.gt_classes.sort().values.tolist()
        iou = paired_iou_rotated(
            best.pred_boxes.tensor[order], truth.gt_boxes.tensor[truth.gt_classes.argsort()]
        )
        assert iou.min() > 0.5
        assert best.scores.min() > 0.3


def test_images_of_several_sizes_are_padded() -> None:
    model = build_model(tiny_config()).train()
    inputs = [
        make_input([[40.0, 40.0, 50.0, 20.0, 30.0]], [0], (96, 160)),
        make_input([[40.0, 40.0, 50.0, 20.0, 30.0]], [0], (100, 70)),
    ]
    losses = model(inputs)
    assert all(torch.isfinite(v) for v in losses.values())
    model.eval()
    with torch.no_grad():
        outputs = model(inputs)
    assert [o["instances"].image_size for o in outputs] == [(96, 160), (100, 70)]


def test_no_objects_give_finite_losses_with_a_gradient_path() -> None:
    model = build_model(tiny_config()).train()
    losses = model([make_input([], [])] * 2)
    assert losses["loss_box"].item() == 0
    assert losses["loss_score_map"].item() == 0
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all(), name


def test_evaluation_is_deterministic() -> None:
    model = build_model(tiny_config()).eval()
    model.head.score_threshold = 0.0
    with torch.no_grad():
        first, second = (model(two_inputs())[0]["instances"] for _ in range(2))
    assert len(first) > 0
    assert torch.equal(first.pred_boxes.tensor, second.pred_boxes.tensor)


def test_boxes_come_in_the_frame_of_the_original_image() -> None:
    instances = Instances((64, 64))
    instances.pred_boxes = RotatedBoxes(torch.tensor([[60.0, 10.0, 20.0, 8.0, 30.0]]))
    instances.scores = torch.tensor([0.5])
    scaled = rescale(instances, {"height": 128, "width": 128})
    expected = torch.tensor([[120.0, 20.0, 40.0, 16.0, 30.0]])
    torch.testing.assert_close(scaled.pred_boxes.tensor, expected)
    assert scaled.image_size == (128, 128)
    # Nothing is clipped, and the argument keeps its boxes.
    assert instances.pred_boxes.tensor[0, 0] == 60


def test_bfloat16_autocast_trains() -> None:
    model = build_model(tiny_config()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(two_inputs())
    assert all(v.dtype == torch.float32 and torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()


def test_what_becomes_boxes_and_scores_keeps_float32_under_autocast() -> None:
    head = build_model(tiny_config()).eval().head
    pyramid = [torch.randn(1, 32, s, s) for s in (32, 16, 8, 4, 2)]
    towers = []
    head.class_tower.register_forward_hook(lambda m, i, output: towers.append(output.dtype))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = head(pyramid)
    assert {level.dtype for levels in output for level in levels} == {torch.float32}
    assert torch.bfloat16 in towers
    # More values than bfloat16's 8 bits can tell apart between neighbours.
    assert len(output.class_logits[0].unique()) > 0.9 * output.class_logits[0].numel()


def test_channels_last_gives_the_same_losses() -> None:
    cfg = tiny_config()
    plain = build_model(cfg).train()
    cfg.MODEL.CHANNELS_LAST = True
    turned = build_model(cfg).train()
    turned.load_state_dict(plain.state_dict())
    assert turned.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    expected, losses = plain(two_inputs()), turned(two_inputs())
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-3, atol=1e-5)


def test_number_of_prompts_must_fit_the_head() -> None:
    cfg = tiny_config()
    cfg.MODEL.ROTATED_HEAD.NUM_CLASSES = 3
    with pytest.raises(ValueError, match=r"class prompts: expected 3 .* got 2"):
        build_model(cfg)


def test_parts_of_tcm_come_together() -> None:
    model = build_model(tiny_config())
    with pytest.raises(ValueError, match="expected both or none"):
        RotatedOneStageDetector(
            backbone=model.backbone,
            class_text=None,
            tcm=TCMConfig(**TCMConfig.from_config(tiny_config())),
            neck=FPNConfig(**FPNConfig.from_config(tiny_config())),
            head=model.head,
            pixel_mean=[0.0] * 3,
            pixel_std=[1.0] * 3,
            aux_loss_weight=1.0,
            aux_stride_px=4,
            channels_last=False,
            checkpoint_activations=False,
            compile_training=False,
            compile_inference=False,
        )
