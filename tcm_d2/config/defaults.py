"""The configuration keys that tcm_d2 adds to Detectron2's, besides those that a part adds itself.

Numbers stand here and in the YAML files only; constructors carry no hyper-parameter defaults.
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, get_cfg

from tcm_d2.config.registries import add_part_configs, import_parts

# The prompts of DOTA-v1.0 in the order of the label indices.
DOTA_V1_PROMPTS = [
    "plane",
    "baseball diamond",
    "bridge",
    "ground track field",
    "small vehicle",
    "large vehicle",
    "ship",
    "tennis court",
    "basketball court",
    "storage tank",
    "soccer ball field",
    "roundabout",
    "harbor",
    "swimming pool",
    "helicopter",
]


def add_tcm_config(cfg: CfgNode) -> None:
    """Register what comes with this library, and add its keys and its parts' to ``cfg`` in place.

    Args:
        cfg: a Detectron2 configuration, usually fresh from ``get_cfg()``.
    """
    import_parts()
    _add_model_keys(cfg)
    _add_input_keys(cfg)
    _add_data_keys(cfg)
    _add_solver_keys(cfg)
    _add_test_keys(cfg)
    _add_compile_keys(cfg)
    add_part_configs(cfg)


def get_tcm_config() -> CfgNode:
    """Return Detectron2's default configuration with tcm_d2's keys added."""
    cfg = get_cfg()
    add_tcm_config(cfg)
    return cfg


def _add_clip_keys(cfg: CfgNode) -> None:
    # --- CLIP towers (modeling/clip) ---
    cfg.MODEL.CLIP = CfgNode()
    # An open_clip architecture name with a ResNet image tower, or "custom" (the keys below).
    cfg.MODEL.CLIP.NAME = "RN50-quickgelu"
    # OpenAI archive, OpenCLIP checkpoint or state dict of a whole CLIP; "" keeps random weights.
    cfg.MODEL.CLIP.WEIGHTS = ""
    # Read only when NAME is "custom".
    cfg.MODEL.CLIP.EMBED_DIM = 1024
    cfg.MODEL.CLIP.VISION_LAYERS = [3, 4, 6, 3]
    cfg.MODEL.CLIP.VISION_WIDTH = 64
    cfg.MODEL.CLIP.TEXT_WIDTH = 512
    cfg.MODEL.CLIP.TEXT_HEADS = 8
    cfg.MODEL.CLIP.TEXT_LAYERS = 12
    cfg.MODEL.CLIP.CONTEXT_LENGTH = 77
    cfg.MODEL.CLIP.VOCAB_SIZE = 49408
    # Side of the image whose stride-32 grid the positional embedding is stored for; it is resized
    # to whatever grid comes at run time.
    cfg.MODEL.CLIP.POSITION_IMAGE_SIZE_PX = 1024
    # "BN" (batch statistics, as published), "FrozenBN" or "SyncBN".
    cfg.MODEL.CLIP.NORM = "BN"


def _add_tcm_keys(cfg: CfgNode) -> None:
    # --- TCM (modeling/tcm) ---
    cfg.MODEL.TCM = CfgNode()
    # False gives the plain CLIP-ResNet rotated detector: the baseline without TCM.
    cfg.MODEL.TCM.ENABLED = True
    # Class prompts in label order; the head has one output per prompt.
    cfg.MODEL.TCM.CLASS_NAMES = list(DOTA_V1_PROMPTS)
    # Text put around a class name; "{label}" is replaced.
    cfg.MODEL.TCM.PROMPT_TEMPLATE = "{label}"
    # N1: token ids kept per class, start and end token included.
    cfg.MODEL.TCM.TOKENS_PER_CLASS = 8
    # Words whose token embeddings the learnable context starts from, such as "a photo of a"; it has
    # as many vectors as they have tokens. "": random ones that fill the text tower (as published).
    cfg.MODEL.TCM.CONTEXT_WORDS = ""
    # Language prompt generator: "none" (as published for DOTA), "image" (as in the CVPR paper) or
    # "meta" (FastTCM: from a learnt query, so that class embeddings depend on weights only).
    cfg.MODEL.TCM.PROMPT_GENERATOR = "none"
    # FastTCM's bimodal similarity matching: class embeddings are moved along each image's global
    # token, after the text tower. Its C x C matrix starts as "identity", or with "ones" as in the
    # published code.
    cfg.MODEL.TCM.BIMODAL_MATCHING = False
    cfg.MODEL.TCM.BIMODAL_MATCHING_INIT = "identity"
    # tau: the score map is cosine / tau.
    cfg.MODEL.TCM.TEMPERATURE = 0.07
    # The visual prompt and the text update; False leaves one out, to tell what it brings.
    cfg.MODEL.TCM.VISUAL_PROMPT = True
    cfg.MODEL.TCM.TEXT_UPDATE = True
    # Context decoders of these two.
    cfg.MODEL.TCM.DECODER_WIDTH = 256
    cfg.MODEL.TCM.DECODER_HEADS = 4
    cfg.MODEL.TCM.DECODER_LAYERS = 3
    cfg.MODEL.TCM.DECODER_DROPOUT = 0.1
    # Initial values of the learnable scales s (visual prompt) and gamma (text update).
    cfg.MODEL.TCM.VISUAL_SCALE_INIT = 1e-3
    cfg.MODEL.TCM.TEXT_SCALE_INIT = 1e-4
    # Weight of the auxiliary loss on the score map; its targets have 1 / AUX_STRIDE_PX resolution.
    cfg.MODEL.TCM.AUX_LOSS_WEIGHT = 1.0
    cfg.MODEL.TCM.AUX_STRIDE_PX = 4


def _add_head_keys(cfg: CfgNode) -> None:
    # --- neck (modeling/neck) ---
    cfg.MODEL.ROTATED_FPN = CfgNode()
    # Outputs of the backbone, fine to coarse; the score map joins the last.
    cfg.MODEL.ROTATED_FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.ROTATED_FPN.OUT_CHANNELS = 256
    # Input of P6: "output" (P5) or "input" (C5 with the score map).
    cfg.MODEL.ROTATED_FPN.EXTRA_LEVELS_FROM = "output"
    cfg.MODEL.ROTATED_FPN.RELU_BEFORE_EXTRA = True
    # Levels above the coarsest of IN_FEATURES.
    cfg.MODEL.ROTATED_FPN.NUM_EXTRA_LEVELS = 2

    # --- rotated one-stage heads (modeling/heads), what they share; others stand in their files ---
    cfg.MODEL.ROTATED_HEAD = CfgNode()
    # A registered head; "" takes the one that MODEL.META_ARCHITECTURE implies.
    cfg.MODEL.ROTATED_HEAD.NAME = ""
    cfg.MODEL.ROTATED_HEAD.NUM_CLASSES = 15
    cfg.MODEL.ROTATED_HEAD.STRIDES_PX = [8, 16, 32, 64, 128]
    cfg.MODEL.ROTATED_HEAD.CHANNELS = 256
    cfg.MODEL.ROTATED_HEAD.NUM_CONVS = 4
    # "GN" (32 groups) or "" (none).
    cfg.MODEL.ROTATED_HEAD.NORM = "GN"
    cfg.MODEL.ROTATED_HEAD.PRIOR_PROB = 0.01
    # "linear" (as published): a convolution with one output per class. "text": cosines with the
    # class embeddings, so that the list of classes may change after training (open vocabulary).
    cfg.MODEL.ROTATED_HEAD.CLASSIFIER = "linear"
    cfg.MODEL.ROTATED_HEAD.FOCAL_LOSS_GAMMA = 2.0
    cfg.MODEL.ROTATED_HEAD.FOCAL_LOSS_ALPHA = 0.25
    # Registered name of the boxes' loss ("": the head's own, see modeling/losses), and its weight.
    # Its settings are below MODEL.BOX_LOSS.<name>.
    cfg.MODEL.ROTATED_HEAD.BOX_LOSS = ""
    cfg.MODEL.ROTATED_HEAD.BOX_LOSS_WEIGHT = 1.0
    # Candidates per level, score threshold before centre-ness, IoU above which NMS suppresses,
    # boxes kept per image.
    cfg.MODEL.ROTATED_HEAD.TOPK_CANDIDATES = 2000
    cfg.MODEL.ROTATED_HEAD.SCORE_THRESH = 0.05
    cfg.MODEL.ROTATED_HEAD.NMS_THRESH = 0.1
    cfg.MODEL.ROTATED_HEAD.MAX_DETECTIONS = 2000


def _add_model_keys(cfg: CfgNode) -> None:
    cfg.MODEL.META_ARCHITECTURE = "TCMRotatedFCOS"
    # Any backbone of Detectron2's registry; without TCM where it is none of CLIP's.
    cfg.MODEL.BACKBONE.NAME = "build_clip_resnet_backbone"
    _add_clip_keys(cfg)
    _add_tcm_keys(cfg)
    _add_head_keys(cfg)
    # Memory layout of the convolutions in training; evaluation takes the faster one by itself. True
    # is faster (a fifth of a training step on the CPU), but the CPU's BatchNorm sums less exactly
    # in it: single gradients differ by up to 0.6%.
    cfg.MODEL.CHANNELS_LAST = False
    # Run the image tower's blocks and the head's towers a second time in the backward pass instead
    # of keeping their maps: less memory, a third more time.
    cfg.MODEL.CHECKPOINT_ACTIVATIONS = False
    # CLIP's normalisation, on RGB values in 0..255.
    cfg.MODEL.PIXEL_MEAN = [122.7709383, 116.7460125, 104.09373615]
    cfg.MODEL.PIXEL_STD = [68.5005327, 66.6321579, 70.32316305]
    cfg.MODEL.MASK_ON = False
    # CUDA where there is one. A device that is named here has to be there.
    cfg.MODEL.DEVICE = default_device()


def default_device() -> str:
    """Return the name of the device where a model runs that names none."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _add_input_keys(cfg: CfgNode) -> None:
    cfg.INPUT.FORMAT = "RGB"
    # Detectron2's own resizing, which only its own mapper and DefaultPredictor do: 0 is none.
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.INPUT.MIN_SIZE_TEST = 0
    # Probabilities of a horizontal, vertical and diagonal (both) flip; at most one happens.
    cfg.INPUT.FLIP_PROBS = [0.25, 0.25, 0.25]
    # Probability of a rotation about the image centre by an angle in +-ROTATION_MAX_DEG.
    cfg.INPUT.ROTATION_PROB = 0.0
    cfg.INPUT.ROTATION_MAX_DEG = 180.0
    # Resize factors to draw from in training; [1.0] leaves the patch as it is.
    cfg.INPUT.RESIZE_FACTORS_TRAIN = [1.0]
    cfg.INPUT.RESIZE_FACTOR_TEST = 1.0
    # Side of most training images, which a detector takes for its windows. 0: it is measured when
    # training starts, and written into the copy of the configuration in the run's folder.
    cfg.INPUT.PATCH_SIZE_PX = 0
    # An image that cannot be read in training: "raise", or "skip" (counted and logged).
    cfg.INPUT.ON_BAD_IMAGE = "raise"


def _add_data_keys(cfg: CfgNode) -> None:
    # Folders made by tcm-d2 split to register before the run: "name=patch_dir", or
    # "name=patch_dir=label_dir" with the labels of the whole images, which scoring needs.
    cfg.DATASETS.PATCH_DIRS = []
    # Class names of these folders in label order; empty for DOTA-v1.0's fifteen.
    cfg.DATASETS.CLASSES = []
    # Detectron2's default is True; patches have one size, and an exact resume needs a fixed order.
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False


def _add_solver_keys(cfg: CfgNode) -> None:
    # "ADAMW" or "SGD" (Detectron2's own keys for the latter).
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.BETAS = [0.9, 0.999]
    cfg.SOLVER.EPS = 1e-8
    # Learning-rate factor of the image tower (backbone and attention pool).
    cfg.SOLVER.IMAGE_TOWER_LR_FACTOR = 0.3
    # Epochs; turned into iterations by the data set's size and IMS_PER_BATCH. 0: MAX_ITER, STEPS.
    cfg.SOLVER.MAX_EPOCHS = 12
    cfg.SOLVER.STEP_EPOCHS = [9]
    # Checkpoint and evaluation period in epochs (with MAX_EPOCHS > 0); 0: only at the end.
    cfg.SOLVER.CHECKPOINT_PERIOD_EPOCHS = 1
    cfg.TEST.EVAL_PERIOD_EPOCHS = 0
    # Newest periodic checkpoints to keep; 0 keeps all.
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 0
    # Evaluations in a row without a better AP after which training ends; 0 is never. Needs an
    # evaluation period.
    cfg.SOLVER.EARLY_STOP_PATIENCE = 0
    # With AMP.ENABLED: "float16" (CUDA, with loss scaling) or "bfloat16" (CUDA or CPU).
    cfg.SOLVER.AMP.DTYPE = "float16"
    # Batch size that BASE_LR is meant for: all learning rates are multiplied with IMS_PER_BATCH
    # over it. 0 takes BASE_LR as it is.
    cfg.SOLVER.REFERENCE_BATCH_SIZE = 0
    # Passes in which each process does its share of IMS_PER_BATCH, to save memory. Iterations,
    # samples and schedule stay; loss normalisers and BatchNorm's statistics are those of a pass.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Decay of the exponential moving average of the weights, which is then evaluated and stored
    # beside them; e.g. 0.999. 0 is off.
    cfg.SOLVER.EMA_DECAY = 0.0
    # A loss or gradient that is NaN or infinite: "stop", or "skip" (the step is left out in all
    # processes, dumped, counted and logged; too many in a row still stop).
    cfg.SOLVER.ON_NON_FINITE = "stop"
    # Iterations between two log lines.
    cfg.LOG_PERIOD = 20
    # Iterations between pictures of predictions in TensorBoard (Detectron2's key); 0 is never.
    cfg.VIS_PERIOD = 0


def _add_compile_keys(cfg: CfgNode) -> None:
    # Let torch.compile make one graph of everything from the image to the head's raw output, in
    # training and in evaluation. The first image of each size then takes minutes.
    cfg.TRAIN = CfgNode()
    cfg.TRAIN.COMPILE = False
    cfg.TEST.COMPILE = False


def _add_test_keys(cfg: CfgNode) -> None:
    cfg.TEST.DOTA = CfgNode()
    # IoU above which merging patches into images suppresses.
    cfg.TEST.DOTA.MERGE_NMS_THRESH = 0.1
    # "11point" (official) or "area"; a match needs IoU > IOU_THRESH.
    cfg.TEST.DOTA.METRIC = "11point"
    cfg.TEST.DOTA.IOU_THRESH = 0.5
    # Beside the AP: "none", "numbers" (JSON and CSV files of curves, bins, confusion, matches) or
    # "pictures" (these and PNG files).
    cfg.TEST.DOTA.ANALYSIS = "pictures"
    # Factors on the sides of a picture at which a Detector (tcm-d2 predict) looks at it;
    # [0.5, 1, 2] finds objects of more sizes in 0.25 + 1 + 4 times the time.
    cfg.TEST.WINDOW_SCALES = [1.0]
    # Test-time augmentation in --eval-only: detections of several views of each image are merged.
    cfg.TEST.TTA = CfgNode()
    cfg.TEST.TTA.ENABLED = False
    # Views: with and without mirroring, times quarter turns, times factors on the sides.
    cfg.TEST.TTA.FLIP = True
    cfg.TEST.TTA.QUARTER_TURNS = [0, 1, 2, 3]
    cfg.TEST.TTA.SCALES = [1.0]
    # IoU above which a view's box is dropped for a better one.
    cfg.TEST.TTA.NMS_THRESH = 0.1
    # "mean": boxes averaged over the views that agree, scores over all views; "max": the best one.
    cfg.TEST.TTA.MERGE = "mean"
