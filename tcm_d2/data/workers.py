"""Processes that read and write images."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import cv2


@contextmanager
def image_pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of processes in which OpenCV uses one thread each.

    OpenCV's threads are stopped here before the processes are forked: a process forked beside them
    inherits their locks without them, and hangs in its first call that wants threads.
    """
    num_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ProcessPoolExecutor(num_workers) as pool:
            yield pool
    finally:
        cv2.setNumThreads(num_threads)
