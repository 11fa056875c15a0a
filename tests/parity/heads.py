"""The three heads by the short names that golden files have."""

from __future__ import annotations

from typing import Literal

from tcm_d2.modeling.heads.atss import RotatedATSSHead
from tcm_d2.modeling.heads.contract import ForeignNames
from tcm_d2.modeling.heads.fcos import RotatedFCOSHead
from tcm_d2.modeling.heads.retinanet import RotatedRetinaNetHead

HeadKind = Literal["fcos", "atss", "retinanet"]
FOREIGN_NAMES: dict[HeadKind, ForeignNames] = {
    "fcos": RotatedFCOSHead.foreign_names,
    "atss": RotatedATSSHead.foreign_names,
    "retinanet": RotatedRetinaNetHead.foreign_names,
}
