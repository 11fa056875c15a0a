"""Networks; importing this package registers the meta-architectures with Detectron2."""

from tcm_d2.modeling.meta_arch.builders import TCMRotatedFCOS
from tcm_d2.modeling.meta_arch.one_stage import RotatedOneStageDetector

__all__ = ["RotatedOneStageDetector", "TCMRotatedFCOS"]
