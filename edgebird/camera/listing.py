"""The cameras of this machine, as lines for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from edgebird.camera.v4l2 import Device, Mode


def camera_lines(devices: Iterable[Device], ribbon_cameras: Iterable[dict[str, Any]]) -> list[str]:
    """One line for each camera, what to give to ``--camera`` first, and one for each of its modes.

    Args:
        devices: V4L2 ones.
        ribbon_cameras: as `list_picameras` tells of them.
    """
    lines = []
    for device in devices:
        lines.append(f"{device.path}  {device.name}")
        lines += [f"    also as {name}" for name in device.stable_names]
        if device.problem is not None:
            lines.append(f"    cannot be asked: {device.problem}")
        lines += [f"    {line}" for line in _mode_lines(device.modes)]
    for camera in ribbon_cameras:
        turned = f", mounted at {camera['Rotation']} degrees" if camera.get("Rotation") else ""
        lines.append(f"picamera2:{camera['Num']}  {camera['Model']}{turned}")
    return lines


def _mode_lines(modes: Iterable[Mode]) -> Iterator[str]:
    for mode in modes:
        rates = ", ".join(f"{fps:g}" for fps in mode.fps)
        width, height = mode.size
        yield f"{mode.pixel_format}  {width} x {height}" + (f"  at {rates} fps" if rates else "")
