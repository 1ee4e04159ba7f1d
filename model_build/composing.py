"""Composing pictures in many processes. Imports no TensorFlow, so that those stay small."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from model_build.augment import Material, training_scene
from model_build.targets import target_map

Composed = tuple[np.ndarray, np.ndarray]
"""A picture, uint8 (S, S, 3), and its target map, float32 (S/8, S/8, 5)."""


@dataclass(frozen=True)
class Composer:
    """Makes picture ``number`` of a run.

    Args:
        material: what pictures are composed of.
        seed: of the run.
        size_px: the pictures' side.
        empty_share: of the photos used as they are, those without a bird.
    """

    material: Material
    seed: int
    size_px: int
    empty_share: float

    def __call__(self, number: int) -> Composed:
        """The picture and what the network should say to it."""
        scene = training_scene(
            self.seed, int(number), self.material, self.size_px, self.empty_share
        )
        return scene.picture, target_map(scene)


class Workers:
    """Composes in threads of this process, or, since those share one Python, in processes.

    Each process holds the encoded pictures and its share of the decoded ones. Where there are many
    cores and a GPU to feed, that is memory well spent.

    Args:
        composer: what to do.
        processes: how many, 0 for threads of this process only.
    """

    def __init__(self, composer: Composer, processes: int) -> None:
        self.size_px = composer.size_px
        self.calls = max(2, 2 * processes)
        self.compose: Callable[[int], Composed] = composer
        self._pool = None
        if processes:
            material = replace(composer.material, kept_mb=composer.material.kept_mb / processes)
            # Not forked: TensorFlow's threads would not survive it.
            self._pool = ProcessPoolExecutor(
                processes,
                multiprocessing.get_context("spawn"),
                initializer=_adopt,
                initargs=(replace(composer, material=material),),
            )
            pool = self._pool
            self.compose = lambda number: pool.submit(_compose_adopted, int(number)).result()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


_adopted: list[Composer] = []


def _adopt(composer: Composer) -> None:
    _adopted[:] = [composer]
    # Ctrl-C is for the training, which may want the picture at hand before it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # also when it is killed, which leaves us waiting for work
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


def _compose_adopted(number: int) -> Composed:
    return _adopted[0](number)


def default_processes() -> int:
    """For feeding a GPU: all cores that this process may use but one."""
    return max(1, len(os.sched_getaffinity(0)) - 1)
