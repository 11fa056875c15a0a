"""The stream of training samples: a pure function of the seed and the position in it.

Detectron2's ``TrainingSampler`` starts again at every resume, and its augmentations depend on the
worker that runs them. Here sample n is the same whatever the number of workers and processes and
wherever a run was interrupted; batch i is the same set of samples for one process or several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from detectron2.data import DatasetFromList, build_detection_train_loader
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from tcm_d2.engine.seeding import derive_seed, isolated_seed

Sample = dict[str, Any]
Batch = list[Sample]

# Key under which a sample names the files that could not be read in its place.
SKIPPED_FILES_KEY = "skipped_files"
# Successive unreadable images after which the data set, not an image, is taken to be bad.
MAX_SUCCESSIVE_SKIPS = 100
# Domains of derive_seed, so that shuffling and augmentation draw different numbers.
_SHUFFLE, _AUGMENT = 0, 1


def check_batch_size(total_batch_size: int, *, world_size: int, accumulation_steps: int) -> None:
    """Check that each pass of each process gets the same number of images.

    Raises:
        ValueError: otherwise.
    """
    if accumulation_steps < 1:
        raise ValueError(
            f"SOLVER.ACCUMULATION_STEPS: expected at least 1 pass, got {accumulation_steps}"
        )
    if total_batch_size < 1 or total_batch_size % (world_size * accumulation_steps):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH: expected a multiple of {world_size} processes x "
            f"{accumulation_steps} passes (SOLVER.ACCUMULATION_STEPS), got {total_batch_size}"
        )


class SampleStream(IterableDataset[Sample]):
    """Endless samples for one process (and data-loading worker), in a fixed order.

    Each epoch is a fresh permutation of all images; batches run across epoch boundaries, so no
    image is dropped and every batch is full.
    """

    def __init__(
        self,
        dataset_dicts: Sequence[Sample],
        mapper: Callable[[Sample], Sample | None],
        *,
        seed: int,
        total_batch_size: int,
        rank: int,
        world_size: int,
        start_iteration: int,
    ) -> None:
        """Args:
        dataset_dicts: records in Detectron2's format.
        mapper: record -> sample, or None for an image to skip; may draw from the global
            generators, which are seeded per sample.
        seed: of the order and the augmentations.
        total_batch_size: samples per iteration in all processes together.
        rank: of this process.
        world_size: number of processes; divides ``total_batch_size``.
        start_iteration: first iteration to deliver.

        Raises:
            ValueError: for an empty data set or a batch that cannot be shared evenly.
        """
        if len(dataset_dicts) == 0:
            raise ValueError("training data: expected at least one image, got none")
        check_batch_size(total_batch_size, world_size=world_size, accumulation_steps=1)
        # One byte buffer: workers share it instead of copying a list page by page.
        self._records = DatasetFromList(list(dataset_dicts), copy=False)
        self._mapper = mapper
        self._seed = seed
        self.total_batch_size = total_batch_size
        self._rank = rank
        self._batch_size = total_batch_size // world_size
        self._start_iteration = start_iteration

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        worker_id, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        # The loader takes one whole batch from each worker in turn.
        iteration = self._start_iteration + worker_id
        while True:
            first = iteration * self.total_batch_size + self._rank * self._batch_size
            for position in range(first, first + self._batch_size):
                yield self.sample_at(position)
            iteration += num_workers

    def sample_at(self, position: int) -> Sample:
        """Return the sample at a position of the endless stream.

        Raises:
            RuntimeError: when the mapper skips MAX_SUCCESSIVE_SKIPS images in a row.
        """
        num_records = len(self._records)
        epoch, offset = divmod(position, num_records)
        index = int(_permutation(num_records, self._seed, epoch)[offset])
        skipped: list[str] = []
        for attempt in range(MAX_SUCCESSIVE_SKIPS):
            sample_seed = derive_seed(self._seed, _AUGMENT, position, attempt)
            record = self._records[index]
            with isolated_seed(sample_seed):
                sample = self._mapper(record)
            if sample is not None:
                if skipped:
                    sample[SKIPPED_FILES_KEY] = skipped
                return sample
            skipped.append(str(record.get("file_name", f"record {index}")))
            index = sample_seed % num_records
        raise RuntimeError(
            f"{MAX_SUCCESSIVE_SKIPS} images in a row could not be used, the last one "
            f"{skipped[-1]}; check the data set"
        )


@lru_cache(maxsize=2)
def _permutation(num_records: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, _SHUFFLE, epoch))
    return torch.randperm(num_records, generator=generator)


class ResumableLoader:
    """An iterable of batches that opens Detectron2's loader when the first batch is asked for.

    Set ``start_iteration`` before that: Detectron2's trainers make the iterator when they are
    constructed, before a checkpoint tells where to go on.
    """

    def __init__(self, open_stream: Callable[[int], SampleStream], *, num_workers: int) -> None:
        """Args:
        open_stream: start iteration -> stream of this process's samples.
        num_workers: data-loading processes; 0 loads in this one.
        """
        self.start_iteration = 0
        self._open_stream = open_stream
        self._num_workers = num_workers

    def __iter__(self) -> Iterator[Batch]:
        stream = self._open_stream(self.start_iteration)
        loader = build_detection_train_loader(
            stream,
            mapper=None,
            total_batch_size=stream.total_batch_size,
            aspect_ratio_grouping=False,
            num_workers=self._num_workers,
        )
        # The iterator draws a seed for its workers from the global generator, in the first
        # iteration after a resume; the model's dropout must not notice.
        with isolated_seed(0):
            batches = iter(loader)
        yield from batches
