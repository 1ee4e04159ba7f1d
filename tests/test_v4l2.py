"""Which cameras are listed, from the kernel's answers as a USB camera's driver gives them."""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgebird.camera.listing import camera_lines
from edgebird.camera.picamera import list_picameras
from edgebird.camera.v4l2 import Mode, list_devices
from edgebird.configure.init import found_sources

YUYV, MJPG = (int.from_bytes(code, "little") for code in (b"YUYV", b"MJPG"))
CAPTURE, METADATA = 0x04200001, 0x04A00000
FORMATS = [(MJPG, b"Motion-JPEG"), (YUYV, b"YUYV 4:2:2")]
SIZES = {MJPG: [(640, 480), (1280, 720)], YUYV: [(640, 480)]}
# seconds between frames, as fractions
INTERVALS = {(MJPG, 640): [(1, 30), (1, 15)], (MJPG, 1280): [(1, 30)], (YUYV, 640): [(2, 15)]}


def no_more() -> OSError:
    return OSError(errno.EINVAL, "Invalid argument")


def driver(capabilities: int, *, stepwise: bool = False) -> Callable[[int, int, bytearray], int]:
    """Answers as the uvcvideo driver does, byte for byte."""

    def ioctl(_: int, request: int, buffer: bytearray) -> int:
        number, size = request & 0xFF, request >> 16 & 0x3FFF
        assert len(buffer) == size
        assert request >> 8 & 0xFF == ord("V")
        if number == 0:
            text = b"uvcvideo".ljust(16, b"\0") + b"HD Webcam".ljust(32, b"\0")
            text += b"usb-3f980000.usb-1.2".ljust(32, b"\0")
            buffer[:] = text + struct.pack("=III12x", 0x060600, 0x84A00001, capabilities)
            return 0
        index, first = struct.unpack_from("=II", buffer)
        if number == 2:
            if index >= len(FORMATS):
                raise no_more()
            code, name = FORMATS[index]
            struct.pack_into("=III32sI", buffer, 0, index, 1, 0, name, code)
        elif number == 74:
            if stepwise:
                struct.pack_into("=I6I", buffer, 8, 3, 16, 1920, 2, 16, 1080, 2)
            elif index >= len(SIZES[first]):
                raise no_more()
            else:
                struct.pack_into("=III", buffer, 8, 1, *SIZES[first][index])
        elif number == 75:
            width = struct.unpack_from("=I", buffer, 8)[0]
            rates = INTERVALS.get((first, width), [])
            if index >= len(rates):
                raise no_more()
            struct.pack_into("=III", buffer, 16, 1, *rates[index])
        return 0

    return ioctl


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, Path]:
    """A /dev and a /sys with one camera, whose stable name points at it."""
    dev, sysfs = tmp_path / "dev", tmp_path / "sys"
    (dev / "v4l" / "by-id").mkdir(parents=True)
    (dev / "video0").write_bytes(b"")
    (dev / "v4l" / "by-id" / "usb-HD_Webcam-video-index0").symlink_to("../../video0")
    (sysfs / "video0").mkdir(parents=True)
    (sysfs / "video0" / "name").write_text("HD Webcam: HD Webcam\n")
    return dev, sysfs


def test_a_camera_is_listed_with_its_names_and_modes(machine: tuple[Path, Path]) -> None:
    dev, sysfs = machine
    [device] = list_devices(dev=dev, sysfs=sysfs, ioctl=driver(CAPTURE))
    assert device.path == dev / "video0"
    assert device.name == "HD Webcam: HD Webcam"
    assert device.stable_names == ("usb-HD_Webcam-video-index0",)
    assert device.modes == (
        Mode("MJPG", (640, 480), (30.0, 15.0)),
        Mode("MJPG", (1280, 720), (30.0,)),
        Mode("YUYV", (640, 480), (7.5,)),
    )
    assert camera_lines([device], []) == [
        f"{dev}/video0  HD Webcam: HD Webcam",
        "    also as usb-HD_Webcam-video-index0",
        "    MJPG  640 x 480  at 30, 15 fps",
        "    MJPG  1280 x 720  at 30 fps",
        "    YUYV  640 x 480  at 7.5 fps",
    ]


def test_a_node_that_gives_no_pictures_is_left_out(machine: tuple[Path, Path]) -> None:
    dev, sysfs = machine
    assert list_devices(dev=dev, sysfs=sysfs, ioctl=driver(METADATA)) == []


def test_a_driver_with_any_size_is_listed_with_its_largest(machine: tuple[Path, Path]) -> None:
    dev, sysfs = machine
    [device] = list_devices(dev=dev, sysfs=sysfs, ioctl=driver(CAPTURE, stepwise=True))
    assert [mode.size for mode in device.modes] == [(1920, 1080)] * 2


def test_a_camera_that_cannot_be_asked_is_listed_with_the_reason(
    machine: tuple[Path, Path],
) -> None:
    dev, sysfs = machine

    def busy(*_: object) -> int:
        raise OSError(errno.EBUSY, "Device or resource busy")

    [device] = list_devices(dev=dev, sysfs=sysfs, ioctl=busy)
    assert device.problem == "Device or resource busy"
    (dev / "video0").unlink()
    [device] = list_devices(dev=dev, sysfs=sysfs, ioctl=driver(CAPTURE))
    assert camera_lines([device], [])[-1] == "    cannot be asked: No such file or directory"


def test_ribbon_cameras_are_listed_with_what_to_call_them() -> None:
    known = [{"Model": "imx708", "Num": 0, "Rotation": 180, "Location": 2, "Id": "/base/i2c@1"}]
    assert camera_lines([], known) == ["picamera2:0  imx708, mounted at 180 degrees"]


def test_ribbon_cameras_are_called_by_their_place_among_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus = "/base/axi/pcie@120000/rp1"
    known = [
        {"Model": "Arducam 5MP", "Id": "/base/scb/xhci@7e9c0000-1.1:1.0-1bcf:284c", "Num": 2},
        {"Model": "imx708", "Id": f"{bus}/i2c@88000/imx708@1a", "Num": 1},
        {"Model": "imx219", "Id": f"{bus}/i2c@80000/imx219@10", "Num": 0},
    ]
    library = SimpleNamespace(Picamera2=SimpleNamespace(global_camera_info=lambda: known))
    monkeypatch.setitem(sys.modules, "picamera2", library)
    assert camera_lines([], list_picameras()) == ["picamera2:1  imx708", "picamera2:2  imx219"]
    assert found_sources([]) == [("picamera2:1", "imx708"), ("picamera2:2", "imx219")]


def test_a_machine_without_cameras_has_an_empty_list(tmp_path: Path) -> None:
    assert list_devices(dev=tmp_path, sysfs=tmp_path / "none") == []
