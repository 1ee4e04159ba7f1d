"""Takes channels out of a trained network that do next to nothing, so that a tile takes less time.

A block of the trunk expands its input to many channels, filters each, and adds them up again. After
training many of these are silent, most of all in the last blocks, and others say what the rest can
say as well. The channel whose loss can be made good best goes first, with the sums adapted to do so
by least squares, and so on while the block says nearly the same (the closed form is that of Hassibi
and Stork, 1993, Second order derivatives for network pruning: Optimal Brain Surgeon; for channels,
with the error of a layer's output, He, Zhang and Sun, 2017, arXiv:1707.06168).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import keras
import numpy as np
from tqdm import tqdm

from model_build.trunk import CHANNEL_AXIS, Trunk, block_and_part

# What a block says may change by this share of its variance (measured: the shipped detector finds
# as much as with all channels; from 0.02 on a little less).
_TOLERANCE = 0.005
# Kernels work on so many channels at once: what is left over takes as long as a whole group.
_GROUP = 16
# Of each picture so many positions are looked at; some of the pictures only check.
_POSITIONS = 64
_CHECKED_SHARE = 0.25
# Ridge, as a share of the channels' mean square: silent channels have no variance to divide by.
_RIDGE = 1e-6


def prune(
    model: keras.Model,
    trunk: Trunk,
    pictures: Sequence[np.ndarray],
    build: Callable[[Trunk], keras.Model],
    *,
    tolerance: float | None = None,
) -> tuple[keras.Model, Trunk]:
    """A network without the channels that it does not need.

    Args:
        model: on a trunk; changed on the way.
        trunk: the model's.
        pictures: float32 (1, S, S, 3) each, as the network takes them; 200 or more.
        build: makes the same network on another trunk, with fresh weights.
        tolerance: the share of a block's variance that its output may change by; 0 leaves all
            channels in. None: 0.005, or 0 for a trunk that is narrow already, which was trained to
            do with what it has.

    Returns:
        The network, and its trunk.
    """
    if tolerance is None:
        tolerance = 0.0 if trunk.narrowed else _TOLERANCE
    if not tolerance:
        return model, trunk
    blocks = range(1, sum(stage.repeats for stage in trunk.stages))
    kept: dict[int, np.ndarray] = {}
    for block, values in zip(blocks, _channel_values(model, blocks, pictures), strict=True):
        layer = model.get_layer(f"block{block}_project")
        kernel, bias = layer.get_weights()
        weights = np.concatenate([kernel[0, 0], bias[None]])
        kept[block], weights = _fewer_channels(weights, values, tolerance)
        layer.set_weights([weights[None, None, :-1], weights[-1]])
    narrow = replace(trunk, narrowed=tuple(len(channels) for channels in kept.values()))
    pruned = build(narrow)
    for layer in pruned.layers:
        weights = model.get_layer(layer.name).get_weights()
        block, part = block_and_part(layer.name) or (0, "")
        if block in kept:
            kernel, bias = weights
            kernel = np.take(kernel, kept[block], CHANNEL_AXIS[part])
            weights = [kernel, bias if part == "project" else bias[kept[block]]]
        layer.set_weights(weights)
    return pruned, narrow


def _channel_values(
    model: keras.Model, blocks: Sequence[int], pictures: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """What the channels of each block say before they are added up, at some positions of each
    picture: float32 (pictures, positions, channels).
    """
    rng = np.random.default_rng(0)
    names = [f"block{block}_depthwise_relu" for block in blocks]
    look = keras.Model(model.input, [model.get_layer(name).output for name in names])
    values: list[list[np.ndarray]] = [[] for _ in blocks]
    for picture in tqdm(pictures, "looking for idle channels", leave=False):
        for block, seen in zip(values, look(picture, training=False), strict=True):
            channels = np.asarray(seen).reshape(-1, seen.shape[-1])
            block.append(channels[rng.permutation(len(channels))[:_POSITIONS]])
    return [np.stack(block) for block in values]


def _fewer_channels(
    weights: np.ndarray, values: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """As few channels as do what all do.

    Args:
        weights: (channels + 1, out), by which the channels are added up; the last is the bias.
        values: (pictures, positions, channels), of the channels.
        tolerance: see `prune`.

    Returns:
        The channels that stay, in order, and the weights, 0 where a channel does not.
    """
    ones = np.pad(values.astype(np.float64), ((0, 0), (0, 0), (0, 1)), constant_values=1)
    to_check = max(1, round(_CHECKED_SHARE * len(ones)))
    checked, solved = (v.reshape(-1, len(weights)) for v in (ones[:to_check], ones[to_check:]))
    wanted = checked @ weights
    allowed = tolerance * wanted.var(axis=0).sum()

    left = np.append(solved[:, :-1].any(axis=0), True).nonzero()[0]
    kept, adapted = np.arange(len(weights) - 1), weights
    current = weights[left].astype(np.float64)
    squares = solved[:, left].T @ solved[:, left] / len(solved)
    squares += np.eye(len(left)) * _RIDGE * np.trace(squares) / len(left)
    inverse = np.linalg.inv(squares)
    surplus = (len(left) - 1) % _GROUP
    while len(left) > _GROUP:
        stays = _without_idlest(inverse, current, surplus)
        left, current, inverse = left[stays], current[stays], inverse[np.ix_(stays, stays)]
        changed = ((checked[:, left] @ current - wanted) ** 2).mean(axis=0).sum()
        if changed > allowed:
            break
        kept, adapted = left[:-1], np.zeros_like(weights)
        adapted[left] = current
        surplus = _GROUP
    return kept, adapted


def _without_idlest(inverse: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """Leave out the channels, one after the other, whose loss the others can make good best.

    Args:
        inverse: (N, N), of the values' mean products; changed to that of the channels that stay.
        weights: (N, out), the last the bias; changed to those that make the losses good.
        count: how many to leave out.

    Returns:
        Which of the N stay, bool.
    """
    stays = np.ones(len(weights), bool)
    variance = np.diag(inverse).copy()
    # Each channel's change of the inverse is one column's product with itself; all of them are
    # subtracted at the end at once, since the matrix is large.
    columns = np.zeros((len(weights), count))
    for i in range(count):
        loss = np.where(stays[:-1], (weights[:-1] ** 2).sum(axis=1) / variance[:-1], np.inf)
        idlest = int(loss.argmin())
        column = inverse[:, idlest] - columns @ columns[idlest]
        columns[:, i] = column / np.sqrt(column[idlest])
        weights -= np.outer(column, weights[idlest] / column[idlest])
        variance -= columns[:, i] ** 2
        variance[idlest] = 1
        stays[idlest] = False
    inverse -= columns @ columns.T
    return stays
