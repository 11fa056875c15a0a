from __future__ import annotations

import pytest

from tcm_d2.config.defaults import DOTA_V1_PROMPTS
from tcm_d2.data.dota.classes import (
    DOTA_V1_CLASSES,
    DOTA_V2_CLASSES,
    DOTA_V15_CLASSES,
    check_classes,
    class_name_to_prompt,
)


def test_class_lists_extend_each_other_and_agree_with_the_prompts() -> None:
    assert [len(names) for names in (DOTA_V1_CLASSES, DOTA_V15_CLASSES, DOTA_V2_CLASSES)] == [
        15,
        16,
        18,
    ]
    assert DOTA_V2_CLASSES[:16] == DOTA_V15_CLASSES
    assert DOTA_V15_CLASSES[:15] == DOTA_V1_CLASSES
    assert [class_name_to_prompt(name) for name in DOTA_V1_CLASSES] == DOTA_V1_PROMPTS


def test_check_classes_accepts_prompts_of_the_same_classes() -> None:
    check_classes(DOTA_V1_PROMPTS, DOTA_V1_CLASSES, dataset_name="d", num_head_classes=15)


def test_more_classes_in_the_config_than_in_the_data_are_refused() -> None:
    with pytest.raises(ValueError, match=r"NUM_CLASSES: expected 1, .*'ships' \(ship\), got 15"):
        check_classes(DOTA_V1_PROMPTS, ["ship"], dataset_name="ships", num_head_classes=15)
    with pytest.raises(ValueError, match=r"not in the data set: \['plane'\]; missing: none"):
        check_classes(["plane", "ship"], ["ship"], dataset_name="ships", num_head_classes=None)


def test_classes_in_another_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"CLASS_NAMES\[0\]: expected 'ship'.*got 'plane'"):
        check_classes(["plane", "ship"], ["ship", "plane"], dataset_name="d", num_head_classes=2)
