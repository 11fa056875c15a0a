"""Networks; importing this package registers them and their parts."""

import tcm_d2.modeling.backbone.clip_resnet
import tcm_d2.modeling.backbone.resnet
import tcm_d2.modeling.heads.atss
import tcm_d2.modeling.heads.fcos
import tcm_d2.modeling.heads.r3det
import tcm_d2.modeling.heads.retinanet
import tcm_d2.modeling.heads.s2anet  # noqa: F401
from tcm_d2.modeling.detector import RotatedOneStageDetector

__all__ = ["RotatedOneStageDetector"]
