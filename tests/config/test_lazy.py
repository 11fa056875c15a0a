"""Python configurations: overrides in their own syntax, and what the refusals say."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest

from tcm_d2.config.lazy import load_lazy_config
from tcm_d2.config.old_names import without_retired_arguments
from tcm_d2.config.plain import check_calls
from tcm_d2.data.mapper import RotatedDatasetMapper

CONFIG = """
from detectron2.config import LazyCall as L
from torch.nn import Conv2d, Sequential

model = L(Sequential)()
layer = L(Conv2d)(in_channels=3, out_channels="${train.width}", kernel_size=1)
train = dict(lr=1e-4, width=8, names=["a"], weights="", amp=dict(enabled=False), extra=None)
"""


def _load(folder: Path, *overrides: str, text: str = CONFIG):  # type: ignore[no-untyped-def]
    (folder / "c.py").write_text(text)
    return load_lazy_config(folder / "c.py", overrides)


def test_overrides_replace_values_in_their_type(tmp_path: Path) -> None:
    cfg = _load(
        tmp_path,
        *("train.lr=1", "train.names=[b,c]", "train.amp.enabled=True", "train.weights=123"),
        *("train.extra={a: 1}", "+train.new.key=5", "model=null", "train.width=16"),
    )
    assert cfg.train.lr == 1.0 and isinstance(cfg.train.lr, float)
    assert list(cfg.train.names) == ["b", "c"] and cfg.train.amp.enabled is True
    assert cfg.train.weights == "123" and cfg.train.extra == {"a": 1}
    assert cfg.train.new.key == 5 and cfg.model is None
    assert cfg.layer.out_channels == 16
    check_calls(cfg)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.lrr=1",
            r"unknown key 'train\.lrr'; near matches: train\.lr.*; a new key is written",
        ),
        ("optimizer.lr=1", r"unknown key 'optimizer\.lr'; near matches: train\.lr"),
        ("layer.kernel=1", r"unknown key 'layer\.kernel'"),
        ("train.names.3=x", r"unknown key 'train\.names\.3'"),
        ("train.lr=fast", r"train\.lr: expected float \(now 0\.0001\), got str 'fast'"),
        ("train.names=b", r"train\.names: expected list .* a single entry is written .*=\[b\]"),
        ("train.amp=True", r"train\.amp: expected dict"),
        ("train.width=True", r"train\.width: expected int .* got bool"),
        ("train.lr", r"'train\.lr': expected key=value"),
        ("TRAIN.LR 5", r"expected key=value"),
        ("train.weights=a=b", r"expected key=value, as in .*'a=b'"),
        ("~train.lr", r"not deleted"),
        ("--resume", r"option '--resume' stands after"),
    ],
)
def test_override_errors(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _load(tmp_path, override)


def test_misspelt_argument_of_a_call_is_found_before_the_call(tmp_path: Path) -> None:
    cfg = _load(tmp_path, "+layer.kernal_size=3")
    with pytest.raises(
        ValueError, match=r"layer\.kernal_size: Conv2d takes .*matches: kernel_size"
    ):
        check_calls(cfg)


def test_interpolation_to_nowhere_is_named(tmp_path: Path) -> None:
    cfg = _load(tmp_path, text=CONFIG.replace("train.width", "train.widht"))
    with pytest.raises(ValueError, match=r"train\.widht"):
        check_calls(cfg)


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    _load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"near it: c\.py"):
        load_lazy_config(tmp_path / "cc.py")


@pytest.mark.parametrize("text", ["model = (", "import nowhere_at_all", "1 / 0"])
def test_file_that_does_not_run_is_named_and_leaves_imports_alone(
    tmp_path: Path, text: str
) -> None:
    before = builtins.__import__
    with pytest.raises(ValueError, match=r"c\.py: cannot be run: \w+"):
        _load(tmp_path, text=text)
    assert builtins.__import__ is before


def test_arguments_that_are_gone_are_dropped_from_older_configurations() -> None:
    """Run folders written before the mapper lost an argument still open."""
    for target in (RotatedDatasetMapper, "tcm_d2.data.mapper.RotatedDatasetMapper"):
        tree = {"mappers": [{"_target_": target, "load_alternatives": None}]}
        assert without_retired_arguments(tree) == {"mappers": [{"_target_": target}]}
