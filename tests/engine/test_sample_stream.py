"""The stream of samples depends on seed and position only."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tcm_d2.engine.sample_stream import SKIPPED_FILES_KEY, ResumableLoader, SampleStream
from tests.engine.tiny_run import make_records, map_record, open_stream


def _stream(rank: int = 0, world_size: int = 1, **changes: Any) -> SampleStream:
    options: dict[str, Any] = {"seed": 1, "total_batch_size": 4, "start_iteration": 0, **changes}
    records = options.pop("records", make_records())
    mapper = options.pop("mapper", map_record)
    return SampleStream(records, mapper, rank=rank, world_size=world_size, **options)


def _take(stream: SampleStream, count: int) -> list[tuple[int, float]]:
    return [(s["index"], float(s["image"].sum())) for s in itertools.islice(stream, count)]


def test_each_epoch_is_another_permutation() -> None:
    indices = [index for index, _ in _take(_stream(), 30)]
    epochs = [indices[:10], indices[10:20], indices[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert indices != [index for index, _ in _take(_stream(seed=2), 30)]


def test_start_iteration_continues_the_stream() -> None:
    assert _take(_stream(start_iteration=3), 12) == _take(_stream(), 24)[12:]


def test_processes_share_the_batches_of_one() -> None:
    single = _take(_stream(), 16)
    first, second = _take(_stream(0, 2), 8), _take(_stream(1, 2), 8)
    for batch in range(4):
        parts = first[2 * batch : 2 * batch + 2] + second[2 * batch : 2 * batch + 2]
        assert parts == single[4 * batch : 4 * batch + 4]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(num_workers: int) -> None:
    def batches(workers: int) -> list[list[float]]:
        loader = ResumableLoader(
            partial(open_stream, seed=1, mapper=map_record), num_workers=workers
        )
        loader.start_iteration = 2
        return [[float(s["image"].sum()) for s in b] for b in itertools.islice(loader, 7)]

    assert batches(num_workers) == batches(0)


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    wanted = (torch.rand(1).item(), np.random.rand())  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    _take(_stream(), 3)
    assert (torch.rand(1).item(), np.random.rand()) == wanted  # noqa: NPY002


def test_bad_image_is_replaced_and_named() -> None:
    stream = _stream(mapper=partial(map_record, bad_index=4))
    samples = list(itertools.islice(stream, 10))
    named = [name for s in samples for name in s.get(SKIPPED_FILES_KEY, ())]
    assert named == ["image4.png"]
    assert 4 not in [s["index"] for s in samples]
    again = _stream(mapper=partial(map_record, bad_index=4))
    assert [s["index"] for s in samples] == [index for index, _ in _take(again, 10)]


def test_only_bad_images_end_with_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"100 images in a row.*image0\.png"):
        _take(_stream(records=make_records()[:1], mapper=partial(map_record, bad_index=0)), 1)


def test_empty_data_set_and_uneven_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        _stream(records=[])
    with pytest.raises(ValueError, match=r"IMS_PER_BATCH: expected a multiple of 3"):
        _stream(0, 3)
