"""DOTA-v1.0 patches of 1024 px: what is trained on, what is evaluated on, and how."""

from detectron2.config import LazyCall as L

from tcm_d2.data.augmentation import RandomFlip
from tcm_d2.data.mapper import RotatedDatasetMapper
from tcm_d2.evaluation.dota_evaluator import DotaEvaluator

dataloader = dict(
    # Folders made by tools/split_dota.py to register before the run: "name=patch_dir", or
    # "name=patch_dir=label_dir" with the labels of the whole images, which scoring needs.
    patch_dirs=[],
    # Class names of these folders in label order; empty for DOTA-v1.0's fifteen.
    classes=[],
    train=dict(
        # With AP on this machine: dota_v1_train here and dota_v1_val below.
        names=["dota_v1_trainval"],
        # Images per iteration in all processes together.
        total_batch_size=4,
        num_workers=4,
        # Patches without objects are not trained on.
        drop_empty=True,
        # Side of most training images, a detector's windows; 0 is measured when training starts.
        patch_size_px=0,
        mapper=L(RotatedDatasetMapper)(
            is_train=True,
            augmentations=[L(RandomFlip)(probabilities=[0.25, 0.25, 0.25])],
            image_format="RGB",
            num_classes="${model.head.num_classes}",
            # Not where the model has no tcm, which alone compares with them.
            with_class_masks=True,
            mask_stride_px="${model.aux_stride_px}",
            on_bad_image="raise",
        ),
    ),
    test=dict(
        names=["dota_v1_test"],
        num_workers=4,
        mapper=L(RotatedDatasetMapper)(
            is_train=False,
            augmentations=[],
            image_format="RGB",
            num_classes="${model.head.num_classes}",
            with_class_masks=False,
            mask_stride_px="${model.aux_stride_px}",
            on_bad_image="raise",
        ),
        evaluator=L(DotaEvaluator)(
            nms_iou_threshold=0.1, iou_threshold=0.5, metric="11point", analysis="pictures"
        ),
        # Several views of each image in --eval-only; see TEST.TTA in tcm_d2/config/defaults.py.
        tta=dict(
            enabled=False,
            flip=True,
            quarter_turns=[0, 1, 2, 3],
            scales=[1.0],
            nms_threshold=0.1,
            merge="mean",
        ),
        # Factors at which a Detector looks at a picture; see TEST.WINDOW_SCALES there.
        window_scales=[1.0],
    ),
)
