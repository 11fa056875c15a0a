"""Copies of configurations and overrides in the spelling of earlier versions still open.

``old_copies`` holds what runs of version 0.1 wrote into their folders.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from tcm_d2.config.plain import dotted_name
from tcm_d2.config.run import Run, open_config
from tcm_d2.modeling.dense.anchors import AnchorGenerator
from tcm_d2.modeling.dense.delta_coder import PUBLISHED_CODER, DeltaBoxCoder
from tcm_d2.modeling.neck.fpn import FPNConfig
from tests.config.test_tree import CONFIGS_DIR, flat
from tests.engine.small_detector import write_config

OLD_COPIES = Path(__file__).with_name("old_copies")
# As they were given to the runs that wrote the copies.
OLD_OVERRIDES = [
    *("model.clip.name=custom", "model.clip.embed_dim=32", "model.clip.vision_layers=[1,1,1,1]"),
    *("model.clip.vision_width=8", "model.clip.text_width=32", "model.clip.text_heads=1"),
    *("model.clip.text_layers=1", "model.clip.context_length=16"),
    *("model.clip.position_image_size_px=64", "model.clip.class_prompts.class_names=[plane,ship]"),
    *("model.fpn.out_channels=32", "model.head.num_classes=2", "model.head.channels=32"),
    *("model.head.num_convs=1", "model.head.score_threshold=0.001", "train.seed=1"),
    "dataloader.classes=[plane,ship]",
]
OLD_TCM_OVERRIDES = [f"model.tcm.decoder_{x}" for x in ("width=32", "heads=2", "layers=1")]
# Arguments that the copies do not name: what leaves them out gets these.
UNNAMED = {
    "model.neck.num_extra_levels": FPNConfig.num_extra_levels,
    "model.head.anchor_generator.width_side": AnchorGenerator.__init__.__kwdefaults__["width_side"],
    "model.head.coder._target_": dotted_name(DeltaBoxCoder),
    "model.head.classifier": "linear",
    "model.class_text.context_words": "",
    "model.tcm.visual_prompt": True,
    "model.tcm.text_update": True,
    **{f"model.head.coder.{name}": value for name, value in asdict(PUBLISHED_CODER).items()},
}
EXACT_THEN = ["model.head.assigner.iou_rounding=reference"]


def leaves_of(run: Run) -> dict[str, object]:
    return flat(yaml.safe_load(run.text))


def test_copy_of_a_yaml_run_is_the_tree_of_its_file(tmp_path: Path) -> None:
    """It holds all of Detectron2's defaults of then, some of which would be refused today."""
    old = open_config(OLD_COPIES / "fcos.yaml")
    assert leaves_of(old) == leaves_of(open_config(write_config(tmp_path)))
    assert old.train.device is None  # "cuda" meant: where there is one


@pytest.mark.parametrize(
    ("copy", "file", "overrides"),
    [
        ("lazy_fcos", "tcm_fcos", OLD_TCM_OVERRIDES),
        ("lazy_retinanet", "tcm_retinanet", [*OLD_TCM_OVERRIDES, *EXACT_THEN]),
        ("lazy_no_tcm", "atss_no_tcm", EXACT_THEN),
    ],
)
def test_copy_of_a_python_run_is_the_tree_of_its_file(
    tmp_path: Path, copy: str, file: str, overrides: list[str]
) -> None:
    shutil.copy(OLD_COPIES / f"{copy}.yaml", tmp_path / "config_lazy.yaml")
    old = open_config(tmp_path / "config_lazy.yaml")
    if "no_tcm" in copy:
        overrides = [*overrides, "model.tcm=null", "model.clip.with_text=False"]
        todays = [o for o in OLD_OVERRIDES if "class_prompts" not in o]
    else:
        todays = OLD_OVERRIDES
    new = open_config(CONFIGS_DIR / f"lazy/{file}.py", [*todays, *overrides])
    leaves = leaves_of(new)
    unnamed = {name: leaves.pop(name) for name in UNNAMED if name in leaves}
    assert leaves_of(old) == leaves
    assert unnamed == {name: UNNAMED[name] for name in unnamed}


def test_old_override_switches_the_text_off() -> None:
    file = CONFIGS_DIR / "lazy/tcm_fcos.py"
    old = ["model.tcm=null", "model.clip.with_text=False", "model.clip.weights=RN50.pt"]
    run = open_config(file, [*old, "train.output_dir=output/fcos_no_tcm"])
    plain = open_config(CONFIGS_DIR / "lazy/fcos_no_tcm.py", ["model.backbone.weights=RN50.pt"])
    assert leaves_of(run) == leaves_of(plain)


def test_copies_take_overrides(tmp_path: Path) -> None:
    run = open_config(CONFIGS_DIR / "tcm_fcos.yaml")
    (tmp_path / "config.yaml").write_text(run.text)
    again = open_config(tmp_path / "config.yaml")
    assert again.text == run.text and again.train == run.train
    changed = open_config(tmp_path / "config.yaml", ["model.head.score_threshold=0.5"])
    assert changed.model["head"]["score_threshold"] == 0.5
    with pytest.raises(ValueError, match=r"'SEED': expected key=value, as in optimizer\.lr=2e-4"):
        open_config(tmp_path / "config.yaml", ["SEED", "3"])


def test_nothing_in_a_copy_is_run(tmp_path: Path) -> None:
    text = open_config(CONFIGS_DIR / "tcm_fcos.yaml").text
    for name in ("os.system", "tcm_d2.modeling.clip.weights.os.system", "subprocess.call"):
        part = "_target_: tcm_d2.modeling.neck.fpn.FPNConfig"
        assert part in text
        (tmp_path / "config.yaml").write_text(text.replace(part, f"_target_: {name}"))
        run = open_config(tmp_path / "config.yaml")
        with pytest.raises(ValueError, match=rf"refused to build '{name}': .*--import my_part"):
            run.build_model(device="cpu")
