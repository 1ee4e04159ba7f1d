"""Every camera keeps one contract, and bad sources end in one clear line."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from conftest import eventually
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import RED, SIZE, red_picture, scripted_camera

from edgebird.camera import Camera, is_live, is_pictures, is_stream, open_camera
from edgebird.camera.container import is_cut_short
from edgebird.camera.demo import DemoFeeder
from edgebird.camera.files import (
    PictureSequence,
    VideoFile,
    list_pictures,
    read_picture,
    read_small_grey,
)
from edgebird.camera.opencv import (
    check_address,
    device_capture,
    host_of,
    redact_url,
    stream_capture,
)
from edgebird.camera.picamera import open_picamera
from edgebird.camera.settings import CameraSettings
from edgebird.errors import CameraError, UsageError
from edgebird.structures import Frame, Image
from edgebird.testing import FakeCamera


def busy_picture(seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
    return cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC)


def write(path: Path, image: Image) -> Path:
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    return path


def write_video(path: Path, codec: str, images: list[Image], fps: float = 10.0) -> Path:
    size = images[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, size)
    assert writer.isOpened()
    for image in images:
        writer.write(image[..., ::-1])
    writer.release()
    return path


def cut_in_half(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def frames_before_error(camera: Camera) -> tuple[list[Frame], str]:
    good: list[Frame] = []
    with pytest.raises(CameraError) as caught:
        good.extend(camera.frames())
    message = str(caught.value)
    assert "\n" not in message
    return good, message


@contextmanager
def unprivileged() -> Iterator[None]:
    """As somebody who may not look into pytest's folders, where we are not so anyway."""
    user = os.geteuid()
    # Python loads it for the first name of a host, and if that fails, never tries again
    "".encode("idna")
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def fake_camera(_: Path) -> Camera:
    return FakeCamera([red_picture()] * 5)


def picture_sequence(folder: Path) -> Camera:
    for number in range(5):
        write(folder / f"{number}.png", red_picture())
    return PictureSequence(list_pictures(str(folder)), fps=4.0)


def video_file(folder: Path) -> Camera:
    return VideoFile(write_video(folder / "red.avi", "MJPG", [red_picture()] * 5))


def demo_feeder(_: Path) -> Camera:
    return DemoFeeder(seconds=0.5, fps=10, pace=False)


def live_camera(folder: Path) -> Camera:
    # slow enough that none is dropped
    return scripted_camera({"play": 5, "then": "end", "pace_s": 0.05}, state=folder / "n")


def ribbon_camera(_: Path) -> Camera:
    return open_picamera(settings=CameraSettings(size=SIZE), opener="stand_ins:picamera_stand_in")


ALL_CAMERAS = [
    fake_camera,
    picture_sequence,
    video_file,
    demo_feeder,
    live_camera,
    ribbon_camera,
]


@pytest.fixture(params=ALL_CAMERAS, ids=lambda make: make.__name__)
def camera(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Camera]:
    opened: Camera = request.param(tmp_path)
    yield opened
    opened.close()


def test_every_camera_yields_rgb_frames_with_rising_index_and_time(camera: Camera) -> None:
    frames = list(islice((f for f in camera.frames() if isinstance(f, Frame)), 5))
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    times = [frame.monotonic_s for frame in frames]
    assert times == sorted(times)
    assert all(frame.image.dtype == np.uint8 and frame.image.ndim == 3 for frame in frames)
    assert all(frame.source for frame in frames)


def test_every_camera_ends_when_closed_and_may_be_closed_twice(camera: Camera) -> None:
    frames = camera.frames()
    next(frames)
    camera.close()
    camera.close()
    assert list(frames) == []


@pytest.mark.parametrize(
    "make",
    [make for make in ALL_CAMERAS if make is not demo_feeder],
    ids=lambda make: make.__name__,
)
def test_red_arrives_in_the_first_channel(make: Callable[[Path], Camera], tmp_path: Path) -> None:
    camera = make(tmp_path)
    frame = next(camera.frames())
    camera.close()
    assert isinstance(frame, Frame)
    assert frame.size == SIZE
    np.testing.assert_allclose(frame.image.mean((0, 1)), RED, atol=8)


# streams


def test_an_http_stream_is_read_and_comes_back_after_it_ends() -> None:
    ok, jpeg = cv2.imencode(".jpg", busy_picture()[..., ::-1])
    assert ok

    class Stream(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
            for _ in range(20):
                self.wfile.write(part + jpeg.tobytes() + b"\r\n")
                time.sleep(0.01)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    camera = open_camera(f"http://user:secret@127.0.0.1:{server.server_port}/video.mjpg")
    frames = list(islice((f for f in camera.frames() if isinstance(f, Frame)), 2))
    camera.close()
    server.shutdown()
    server.server_close()
    assert frames[0].size == (320, 240)
    assert frames[0].source == f"http://***@127.0.0.1:{server.server_port}/video.mjpg"


def test_a_stream_that_nobody_serves_is_an_error_without_credentials() -> None:
    with pytest.raises(CameraError) as caught:
        open_camera("rtsp://user:secret@127.0.0.1:9/live")
    assert "secret" not in str(caught.value)
    assert "rtsp://***@127.0.0.1:9/live" in str(caught.value)


def test_how_to_write_a_password_is_told_where_there_is_one() -> None:
    with pytest.raises(CameraError, match=r"password \(in a password write / as %2F, @ as %40\)"):
        stream_capture("rtsp://user:secret@127.0.0.1:9/live", {})
    with pytest.raises(CameraError, match=r"password$"):
        stream_capture("rtsp://127.0.0.1:9/live", {})


def test_the_kind_of_an_address_may_be_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def remember(url: str, *_: object) -> AskedCapture:
        opened.append(url)
        return AskedCapture()

    monkeypatch.setattr("edgebird.camera.opencv.open_quietly", remember)
    stream_capture("RTSP://Anna:Word@cam/Live", {})
    assert opened == ["rtsp://Anna:Word@cam/Live"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:pw@cam:554/h264", "rtsp://***@cam:554/h264"),
        ("rtsp://admin:p@ss@cam/1", "rtsp://***@cam/1"),
        ("rtsp://admin:p\nw@cam/1", "rtsp://***@cam/1"),
        ("rtsp:/admin:pw@cam/1", "rtsp:/***@cam/1"),
        ("HTTP:/cam/snap.jpg?pwd=a\nb", "HTTP:/cam/snap.jpg?***"),
        ("a:b://admin:pw@cam", "a:***@cam"),
        ("http://cam/snap.cgi?user=a&pwd=b", "http://cam/snap.cgi?***"),
        ("rtsp://cam/user=a_password=b_channel=1", "rtsp://cam/user=***"),
        ("rtsp://cam:8554/feeder", "rtsp://cam:8554/feeder"),
        ("demo:?seed=3", "demo:?seed=3"),
        ("pictures/a:b@c.jpg", "pictures/a:b@c.jpg"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@pytest.mark.parametrize("source", ["rtsp:/user:secret@cam", "http:/user:secret@cam/snap.jpg"])
def test_an_address_with_one_slash_is_no_file_whose_name_is_told(source: str) -> None:
    with pytest.raises(UsageError, match=r":/\*\*\*@cam.* names no host") as caught:
        open_camera(source)
    assert "secret" not in str(caught.value)


@given(
    user=st.text("abcXYZ019._-", min_size=1),
    password=st.text("qrsQRS789@:/?=#%!", min_size=4),
)
def test_no_password_survives_redaction(user: str, password: str) -> None:
    assert password not in redact_url(f"rtsp://{user}:{password}@camera.lan/live")


@given(
    user=st.text("abcXYZ019._-", min_size=1),
    password=st.text("qrsQRS789@:/?=#%!", min_size=4),
)
def test_no_part_of_a_password_is_taken_for_the_host(user: str, password: str) -> None:
    url = f"rtsp://{user}:{password}@camera.lan/live"
    with suppress(UsageError):
        check_address(url)
        assert host_of(url) in (user.lower(), "camera.lan")


@pytest.mark.parametrize(
    "password", ["Haus/1", "geheim@Haus/1", "geheim?@1", "#geheim", "/geheim", "@/?"]
)
def test_a_password_that_ends_the_host_has_to_be_written_otherwise(password: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_address(f"rtsp://admin:{password}@camera.lan/live")
    told = "write @ / : ? # % and spaces in a user or password as %40 %2F %3A %3F %23 %25 %20, "
    told += "and an @ after the host as %40, too"
    assert str(caught.value) == f"camera rtsp://***@camera.lan/live: {told}"


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://anna:w@rd:1@cam:554/live",
        "rtsp://cam/user@home",
        "http://cam:80/snap.cgi?mail=a@b.example",
        "http://[::1]:80/a@b",
        "http://cam/video.mjpg",
        "http://cam/stream.ts?name=a.mp4",
        "http://cam.mov",
        "rtsp://cam/garden.mp4",
    ],
)
def test_an_address_of_a_stream_is_taken(url: str) -> None:
    check_address(url)


# devices


class AskedCapture:
    """As much of cv2.VideoCapture as is used to open one; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: dict[int, float] = {}

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def set(self, setting: int, value: float) -> bool:
        self.asked[setting] = value
        return True


@pytest.mark.parametrize(("fps", "asked"), [(0.5, 1), (2.5, 3), (10.0, 10), (29.97, 30)])
def test_a_device_is_asked_for_a_whole_rate_that_suffices(
    fps: float, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = AskedCapture()
    monkeypatch.setattr("edgebird.camera.opencv.open_quietly", lambda *_: device)
    device_capture("/dev/null", {"fps": fps})
    assert device.asked[cv2.CAP_PROP_FPS] == asked


def test_the_driver_has_a_buffer_while_the_picture_in_another_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = AskedCapture()
    monkeypatch.setattr("edgebird.camera.opencv.open_quietly", lambda *_: device)
    device_capture("/dev/null", {})
    assert device.asked[cv2.CAP_PROP_BUFFERSIZE] == 2


@pytest.mark.parametrize(("code", "asked"), [("MJPG", b"MJPG"), ("Y16", b"Y16 ")])
def test_a_format_is_asked_for_by_four_letters(
    code: str, asked: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = AskedCapture()
    monkeypatch.setattr("edgebird.camera.opencv.open_quietly", lambda *_: device)
    device_capture("/dev/null", {"pixel_format": code})
    assert device.asked[cv2.CAP_PROP_FOURCC] == int.from_bytes(asked, "little")


# pictures


def test_pictures_are_listed_in_natural_order(tmp_path: Path) -> None:
    for name in ("bird10.png", "bird2.PNG", "bird1.png"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("notes.txt", "._bird3.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    names = ["bird1.png", "bird2.PNG", "bird10.png"]
    assert [path.name for path in list_pictures(str(tmp_path))] == names
    assert [path.name for path in list_pictures(f"{tmp_path}/*")] == names
    assert list_pictures(f"{tmp_path}/bird1.png") == [tmp_path / "bird1.png"]


def test_a_link_that_leads_in_a_circle_shows_each_picture_once(tmp_path: Path) -> None:
    (tmp_path / "2024").mkdir()
    paths = [tmp_path / name for name in ("1.png", "2.png", "2024/3.png")]
    for path in paths:
        path.write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert list_pictures(f"{tmp_path}/**/*.png") == paths
    # who asks for a link by its name gets it
    (tmp_path / "latest.png").symlink_to(tmp_path / "2.png")
    assert tmp_path / "latest.png" in list_pictures(f"{tmp_path}/*.png")


def test_what_is_left_out_of_a_folder_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("bird.jpg", "bird.JFIF", "bird.heic", ".hidden", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    with caplog.at_level("INFO"):
        names = [path.name for path in list_pictures(str(tmp_path))]
        assert len(list_pictures(f"{tmp_path}/*.jpg")) == 1
    assert sorted(names) == ["bird.JFIF", "bird.jpg"]
    [told] = [record.getMessage() for record in caplog.records]
    assert told == f"files and folders in {tmp_path} that are no pictures, and left out: 3"


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CameraError, match="has no pictures"):
        list_pictures(str(tmp_path))
    with pytest.raises(CameraError, match=r"there is no picture .*jpg"):
        list_pictures(f"{tmp_path}/*.jpg")


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "webp", "tif"])
def test_every_format_arrives_as_rgb(tmp_path: Path, ending: str) -> None:
    image = read_picture(write(tmp_path / f"red.{ending}", red_picture()))
    assert image.dtype == np.uint8
    assert image.shape == (SIZE[1], SIZE[0], 3)
    np.testing.assert_allclose(image.mean((0, 1)), RED, atol=8)


def test_grey_deep_and_transparent_pictures_are_converted(tmp_path: Path) -> None:
    grey = np.full((10, 12), 100, np.uint8)
    deep = np.full((10, 12, 3), 100 * 257, np.uint16)
    clear = np.dstack([np.full((10, 12, 3), 100, np.uint8), np.full((10, 12), 7, np.uint8)])
    for number, picture in enumerate((grey, deep, clear)):
        path = tmp_path / f"{number}.png"
        assert cv2.imwrite(str(path), picture)
        image = read_picture(path)
        assert image.shape == (10, 12, 3)
        assert image.dtype == np.uint8
        assert (image == 100).all()


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    path = write(tmp_path / "turned.jpg", red_picture())
    # EXIF with the single entry orientation = 6: to be turned right by 90 degrees
    entry = b"\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + entry
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    data = path.read_bytes()
    path.write_bytes(data[:2] + segment + data[2:])
    assert read_picture(path).shape == (SIZE[0], SIZE[1], 3)
    assert read_small_grey(path).shape == (SIZE[0] // 2, SIZE[1] // 2)


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "webp", "tif"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
def test_a_truncated_picture_is_an_error(tmp_path: Path, ending: str, kept: float) -> None:
    path = write(tmp_path / f"cut.{ending}", busy_picture())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(CameraError, match=rf"picture .*cut\.{ending} is .*(cut short|damaged)"):
        read_picture(path)


@pytest.mark.parametrize("length", [1 << 20, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_png_chunk_longer_than_its_file_takes_no_memory(
    tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "long.png", red_picture())
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = length.to_bytes(4, "big")
    path.write_bytes(data)
    monkeypatch.delattr(cv2, "imdecode")  # which takes as much as the chunk says
    for read in (read_picture, read_small_grey):
        with pytest.raises(CameraError, match=r"long\.png is cut short or damaged"):
            read(path)


def test_what_follows_the_end_of_a_png_does_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path / "more.png", busy_picture())
    path.write_bytes(path.read_bytes() + b"\xff" * 100)
    assert read_picture(path).shape == (240, 320, 3)


def test_a_truncated_jpeg_with_a_whole_thumbnail_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.jpg", busy_picture())
    thumbnail = cv2.imencode(".jpg", red_picture())[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 8).to_bytes(2, "big") + b"Exif\x00\x00" + thumbnail
    data = path.read_bytes()
    path.write_bytes(data[:2] + segment + data[2:])
    assert read_picture(path).shape == (240, 320, 3)
    path.write_bytes(data[:2] + segment + data[2 : len(data) // 2])
    with pytest.raises(CameraError, match="end of the JPEG is missing"):
        read_picture(path)


def test_what_follows_the_end_of_a_jpeg_does_no_harm(tmp_path: Path) -> None:
    # phones append a short video, which may hold any marker by chance
    path = write(tmp_path / "motion.jpg", busy_picture())
    path.write_bytes(path.read_bytes() + b"ftypmp4\xff\xda\x00\x08 and so on")
    assert read_picture(path).shape == (240, 320, 3)


def test_a_jpeg_damaged_inside_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "scratched.jpg", busy_picture())
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = b"\xff\xd5\x00\x00\x13bad!" * 40
    path.write_bytes(data)
    with pytest.raises(CameraError, match="damaged"):
        read_picture(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello, this is text" * 100, "not a picture"),
    ],
)
def test_what_is_no_picture_is_an_error(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(CameraError, match=reason):
        read_picture(path)


def test_a_picture_that_is_too_large_is_not_decoded_whatever_its_format(tmp_path: Path) -> None:
    """With another limit: a picture beyond the usual one takes long to make."""
    paths = [
        write(tmp_path / f"large.{ending}", busy_picture())
        for ending in ("jpg", "png", "bmp", "webp", "tif")
    ]
    script = (
        "import pathlib, sys\n"
        "from edgebird.camera.files import read_picture\n"
        "from edgebird.errors import CameraError\n"
        "for path in sys.argv[1:]:\n"
        "    try: print(read_picture(pathlib.Path(path)).shape)\n"
        "    except CameraError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, *map(str, paths)]
    for limit, expected in (("76799", "is too large"), ("76800", "(")):
        environment = os.environ | {"OPENCV_IO_MAX_IMAGE_PIXELS": limit}
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        assert [expected in line for line in result.stdout.splitlines()] == [True] * 5
        assert result.stderr == ""


def test_the_limit_of_a_pictures_size_holds_without_being_set(tmp_path: Path) -> None:
    path = write(tmp_path / "flat.tif", np.zeros((10_001, 10_000), np.uint8))
    with pytest.raises(CameraError, match="is too large: pictures of up to 100 million"):
        read_picture(path)


def test_a_missing_picture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"gone\.png cannot be read: No such file"):
        read_picture(tmp_path / "gone.png")


def test_picture_libraries_print_nothing_and_others_still_can(tmp_path: Path) -> None:
    path = cut_in_half(write(tmp_path / "cut.png", busy_picture()))
    script = (
        "import os, sys, pathlib\n"
        "from edgebird.camera.files import _DECODER_LINE, read_picture\n"
        "from edgebird.errors import CameraError\n"
        "from edgebird.native_messages import collected\n"
        "try: read_picture(pathlib.Path(sys.argv[1]))\n"
        "except CameraError: pass\n"
        "with collected(_DECODER_LINE): os.write(2, b'from another thread\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, check=True, timeout=60
    )
    assert done.stdout == b""
    assert done.stderr == b"from another thread\n"


def test_a_sequence_skips_what_it_cannot_read_and_says_so_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.jpg", busy_picture())
    cut_in_half(tmp_path / "0.jpg")
    (tmp_path / "2.jpg").write_bytes(b"")
    os.utime(tmp_path / "0.jpg", (1000, 1000))
    frames, message = frames_before_error(open_camera(str(tmp_path), fps=2.0))
    assert message == ("2 of 4 pictures could not be read (see above); the other 2 were processed")
    assert [(frame.index, frame.monotonic_s, frame.utc_s) for frame in frames] == [
        (0, 0.5, 1000.5),
        (1, 1.5, 1001.5),
    ]
    assert [frame.source for frame in frames] == [f"{tmp_path}/1.jpg", f"{tmp_path}/3.jpg"]
    assert len(caplog.messages) == 2


def test_a_sequence_with_no_readable_picture_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(b"")
    frames, message = frames_before_error(open_camera(f"{tmp_path}/*.jpg"))
    assert frames == []
    assert message.startswith("1 of 1 pictures could not be read")


def test_a_sequence_whose_first_pictures_are_gone_goes_on(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.jpg", busy_picture()) for number in range(3)]
    for path in paths:
        os.utime(path, (1000, 1000))
    rotated = PictureSequence(paths, fps=2.0)
    paths[0].unlink()
    late = PictureSequence(paths, fps=2.0)
    for camera, times in ((rotated, [1000.5, 1001.0]), (late, [1000.0, 1000.5])):
        frames, message = frames_before_error(camera)
        assert [frame.utc_s for frame in frames] == times
        assert message.startswith("1 of 3 pictures could not be read")


# videos


def test_a_name_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/v\xf6.avi"))
    write_video(tmp_path / "a.avi", "MJPG", [red_picture()] * 3).rename(path)
    with pytest.raises(CameraError, match=r"v\\udcf6\.avi' is not UTF-8"):
        open_camera(str(path))


@pytest.mark.parametrize("name", ["2024-05-01T10:30:00.avi", "10:30.avi", "file:a.avi"])
def test_a_colon_in_a_name_is_no_protocol(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "plain.avi", "MJPG", [red_picture()] * 3).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    frames = list(open_camera(name).frames())
    assert [frame.source for frame in frames] == [name] * 3


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.mkv", "MJPG"), ("a.webm", "VP80")],
)
def test_a_whole_video_carries_its_positions_and_file_time(
    tmp_path: Path, name: str, codec: str
) -> None:
    path = write_video(tmp_path / name, codec, [busy_picture(seed) for seed in range(12)])
    os.utime(path, (5000, 5000))
    frames = list(open_camera(str(path)).frames())
    assert len(frames) == 12
    seconds = np.arange(12) / 10
    np.testing.assert_allclose([frame.monotonic_s for frame in frames], seconds, atol=0.002)
    np.testing.assert_allclose([frame.utc_s for frame in frames], 5000 + seconds, atol=0.002)


def test_the_next_frame_of_a_video_is_decoded_ahead_but_not_shown_after_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.avi", "MJPG", [busy_picture(seed) for seed in range(5)])
    video = VideoFile(path)
    decoded: list[object] = []
    read = video._read
    monkeypatch.setattr(video, "_read", lambda: decoded.append(1) or read())
    frames = video.frames()
    next(frames)
    eventually(lambda: len(decoded) == 2)
    video.close()
    assert list(frames) == []


def test_a_raw_stream_without_time_stamps_counts_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mjpeg", "MJPG", [busy_picture(seed) for seed in range(5)])
    frames = list(VideoFile(path).frames())
    np.testing.assert_allclose([frame.monotonic_s for frame in frames], np.arange(5) / 25)


@pytest.mark.parametrize(
    ("stamps", "seconds"),
    [
        # one far ahead: first, in the middle, last
        ([7200.0, 0.1, 0.2], [0.0, 0.1, 0.2]),
        ([0.0, 0.1, 7200.0, 0.3, 0.4, 0.5], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        ([0.0, 0.1, 7200.0], [0.0, 0.1, 7200.0]),
        # several of them: time goes on from there
        ([0.0, 7200.0, 7200.1, 0.5, 1.0, 1.5], [0.0, 7200.0, 7200.1, 7200.2, 7200.7, 7201.2]),
        # none, or one of before
        ([5.0, 5.1, 0.0, 5.15, 5.25, -9e12, 5.5], [5.0, 5.1, 5.2, 5.25, 5.35, 5.45, 5.5]),
        ([5.0, 5.1, 2.0, 5.3], [5.0, 5.1, 5.2, 5.3]),
        # two recordings in one, which go on or begin anew
        ([0.0, 0.1, 7200.0, 7200.1], [0.0, 0.1, 7200.0, 7200.1]),
        ([9.0, 9.5, 0.0, 0.5, 1.0, 1.5], [9.0, 9.5, 9.6, 9.7, 10.2, 10.7]),
    ],
)
def test_a_wrong_time_stamp_of_a_video_does_not_stop_or_skip_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stamps: list[float], seconds: list[float]
) -> None:
    video = VideoFile(write_video(tmp_path / "a.avi", "MJPG", [red_picture()]))
    frames = iter([*((red_picture(), stamp) for stamp in stamps), None])
    monkeypatch.setattr(video, "_read", lambda: next(frames))
    np.testing.assert_allclose([frame.monotonic_s for frame in video.frames()], seconds)


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "MJPG"), ("a.webm", "VP80")])
def test_a_video_cut_in_the_middle_gives_its_good_frames_first(
    tmp_path: Path, name: str, codec: str
) -> None:
    path = write_video(tmp_path / name, codec, [busy_picture(seed) for seed in range(40)])
    frames, message = frames_before_error(open_camera(str(cut_in_half(path))))
    assert 15 <= len(frames) <= 25
    assert f"{len(frames)} of about 40 frames could be read" in message


def lengthened(path: Path, seconds: float) -> Path:
    """A Matroska file whose last frame is said to end then, as in a part of a recording."""
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # the duration, in milliseconds
    path.write_bytes(data[:at] + struct.pack(">d", 1000 * seconds) + data[at + 8 :])
    return path


def halved(path: Path) -> Path:
    """An MP4 of whose frames only the first half is to be shown, as when it was trimmed."""
    data = path.read_bytes()
    at = data.rindex(b"elst") + 12  # how much is shown
    shown = int.from_bytes(data[at : at + 4]) // 2
    path.write_bytes(data[:at] + shown.to_bytes(4) + data[at + 4 :])
    return path


@pytest.mark.parametrize(
    ("name", "codec", "change", "count", "promised"),
    [
        ("a.mkv", "MJPG", lambda path: lengthened(path, 8.0), 40, 80),
        ("a.mp4", "mp4v", halved, 20, 40),
        # of other formats nothing is known but the number
        ("a.flv", "FLV1", cut_in_half, 20, 40),
    ],
)
def test_a_video_that_may_be_sound_is_only_warned_of(
    name: str,
    codec: str,
    change: Callable[[Path], Path],
    count: int,
    promised: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = change(write_video(tmp_path / name, codec, [busy_picture(seed) for seed in range(40)]))
    frames = list(open_camera(str(path)).frames())
    assert len(frames) == pytest.approx(count, abs=2)
    (message,) = caplog.messages
    assert f"{len(frames)} of about {promised} frames could be read" in message


def test_a_part_of_a_recording_that_is_cut_is_told(tmp_path: Path) -> None:
    pictures = [busy_picture(seed) for seed in range(40)]
    for seconds, number in ((8.0, "of about 80 frames"), (1.7e9, "frames")):
        path = lengthened(write_video(tmp_path / "a.mkv", "MJPG", pictures), seconds)
        frames, message = frames_before_error(open_camera(str(cut_in_half(path))))
        assert 15 <= len(frames) <= 25
        assert f"a.mkv is cut short: {len(frames)} {number} could be read" in message


def test_a_promise_of_more_frames_than_there_can_be_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video(tmp_path / "a.mkv", "MJPG", [red_picture()] * 5)
    video = VideoFile(lengthened(path, 1.7e9))
    assert video.frame_count == 0
    assert len(list(video.frames())) == 5
    assert not caplog.messages


@pytest.mark.parametrize(
    ("content", "cut"),
    [
        (b"RIFF\x04\0\0\0AVI RIFF\x04\0\0\0AVIX", False),
        (b"RIFF\x04\0\0\0AVI RIFF\x05\0\0\0AVIX", True),
        # filled in at the end of the recording, or never
        (b"RIFF\0\0\0\0AVI LIST", False),
        (b"\0\0\0\x08ftyp\0\0\0\x01mdat\0\0\0\0\0\0\0\x12..", False),
        (b"\0\0\0\x08ftyp\0\0\0\x01mdat\0\0\0\0\0\0\0\x12.", True),
        (b"\0\0\0\x08ftyp\0\0\0\x08mo", True),
        (b"\0\0\0\x08ftyp\0\0\0\0mdat", False),
        (b"\x1a\x45\xdf\xa3\x81.\x18\x53\x80\x67\x40\x02..", False),
        (b"\x1a\x45\xdf\xa3\x81.\x18\x53\x80\x67\x40\x02.", True),
        (b"\x1a\x45\xdf\xa3\x81.\x18\x53\x80\x67\x01" + b"\xff" * 7, False),
        (b"\x1a\x45\xdf\xa3\x81." + bytes(40), False),
        (b"G" * 188, False),
        (b"", False),
    ],
)
def test_a_container_tells_whether_its_file_is_cut(
    tmp_path: Path, content: bytes, cut: bool
) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert is_cut_short(path) == cut
    path.unlink()
    assert not is_cut_short(path)


def test_a_video_in_a_format_that_is_not_known_is_not_called_cut(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", "mp4v", [busy_picture(seed) for seed in range(20)])
    path.write_bytes(path.read_bytes().replace(b"mp4v", b"av01").replace(b"esds", b"free"))
    frames, message = frames_before_error(open_camera(str(path)))
    assert not frames
    assert "can be decoded: it is damaged, or in a format such as AV1" in message


@pytest.mark.parametrize("ending", ["mts", "M2TS", "wmv", "ogv"])
def test_more_endings_are_those_of_videos(tmp_path: Path, ending: str) -> None:
    path = write_video(tmp_path / "a.avi", "MJPG", [red_picture()] * 3)
    assert len(list(open_camera(str(path.rename(tmp_path / f"a.{ending}"))).frames())) == 3


@pytest.mark.parametrize("content", [b"", b"no video" * 1000])
def test_what_is_no_video_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    reason = "is damaged or not a video" if content else "is empty"
    with pytest.raises(CameraError, match=reason):
        open_camera(str(path))


def test_an_mp4_without_its_index_is_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", "mp4v", [busy_picture(seed) for seed in range(20)])
    with pytest.raises(CameraError, match=r"a\.mp4 is damaged"):
        open_camera(str(cut_in_half(path)))


# choosing a camera


@pytest.mark.parametrize("name", ["", "a.jpg", "a.avi", "notes"])
def test_what_may_not_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    folder.chmod(0)
    try:
        with unprivileged(), pytest.raises(CameraError, match="Permission denied") as caught:
            open_camera(str(folder / name))
    finally:
        folder.chmod(0o700)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_video_that_may_not_be_read_is_not_called_damaged() -> None:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = write_video(Path(folder) / "a.avi", "MJPG", [red_picture()] * 3)
        path.chmod(0)
        with unprivileged(), pytest.raises(CameraError, match="cannot be read: Permission denied"):
            open_camera(str(path))


def test_a_picture_that_may_not_be_looked_at_does_not_stop_the_others() -> None:
    with TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        private, public = Path(root) / "private", Path(root) / "public"
        for folder in (private, public):
            folder.mkdir()
            write(folder / "a.jpg", red_picture())
        (public / "b.jpg").symlink_to(private / "a.jpg")
        private.chmod(0)
        try:
            with unprivileged():
                frames, message = frames_before_error(open_camera(str(public)))
        finally:
            private.chmod(0o700)
    assert [Path(frame.source).name for frame in frames] == ["a.jpg"]
    assert message.startswith("1 of 2 pictures could not be read")


@pytest.mark.parametrize("ending", ["", ".jpg", ".mp4", "/a.jpg", ":x"])
def test_a_name_that_is_too_long_is_an_error(ending: str) -> None:
    for start in ("", "/tmp/", "/dev/"):
        with pytest.raises(CameraError, match=r"name too long|there is no"):
            open_camera(f"{start}{'n' * 260}{ending}")


def test_streams_are_told_from_other_sources() -> None:
    streams = ["rtsp://cam/stream", "RTSPS://cam/stream", "http://cam/a.jpg"]
    others = ["0", "/dev/video0", "picamera2", "demo:", "ftp://cam/a.mp4", "a.mp4", "None"]
    assert [source for source in streams + others if is_stream(source)] == streams


def test_a_camera_that_is_away_is_known_by_its_stable_name() -> None:
    name = "usb-046d_HD_Pro_Webcam_C920_1234ABCD-video-index0"
    others = ["usb-stick.mp4", "video-index0", f"pictures/{name}", f"{name}.jpg"]
    assert [source for source in [name, *others] if is_live(source)] == [name]
    assert not is_pictures(name)
    # it may come later
    open_camera(name, required=False).close()


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("98", CameraError, "there is no /dev/video98"),
        ("/dev/video98", CameraError, "there is no /dev/video98"),
        (
            "usb-A_Cam-video-index0",
            CameraError,
            "there is no /dev/v4l/by-id/usb-A_Cam-video-index0",
        ),
        ("ftp://host/a.mp4", UsageError, "unknown kind of source ftp://"),
        ("no/such/file", CameraError, "there is no file or folder 'no/such/file'"),
        ("no/such.jpg", CameraError, "there is no picture"),
        ("", CameraError, "there is no file or folder ''"),
        ("picamera2:x", UsageError, "give a number after the colon"),
        ("rtsp://", UsageError, "names no host"),
        ("rtsp://anna:word@/stream", UsageError, "camera rtsp://***@/stream names no host"),
        ("http://[::1/stream", UsageError, "names no host"),
        ("http://cam/live.M3U8?a=1", UsageError, "(HLS): use the camera's rtsp:// address"),
        ("https://a:b@nas/f/A.MP4?x=1", UsageError, "https://***@nas/f/A.MP4?*** is a file"),
        ("http://nas/a.mkv", UsageError, "http://nas/a.mkv is a file, or comes as one"),
        ("demo:?colour=red", UsageError, "unknown option 'colour'"),
        ("demo:?fps=fast", UsageError, "fps=fast is not a number"),
        ("demo:?fps=0", UsageError, "fps must be above 0"),
    ],
)
def test_a_source_that_does_not_fit_says_why(
    source: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        open_camera(source)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_no_camera_is_an_error() -> None:
    with pytest.raises(CameraError, match="/dev/null is not a camera"):
        open_camera("/dev/null")


def test_a_file_of_unknown_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CameraError, match="does not end like a picture's or a video's") as caught:
        open_camera(f"{tmp_path}/notes.txt")
    assert "(known endings: 3gp avi bmp " in str(caught.value)


def test_the_demo_takes_its_options() -> None:
    camera = open_camera("demo:?seed=3&seconds=1&fps=4&pace=0")
    assert [frame.source for frame in camera.frames()] == ["demo"] * 4


def test_pictures_are_told_from_other_sources(tmp_path: Path) -> None:
    (tmp_path / "a[1].mp4").write_bytes(b"")
    (tmp_path / "A.JPG").write_bytes(b"")
    pictures = [str(tmp_path), f"{tmp_path}/A.JPG", f"{tmp_path}/*.png", "gone.jpg"]
    others = ["0", "/dev/video0", "picamera2", "demo:?seed=1", "http://cam/a.jpg"]
    others += [f"{tmp_path}/a[1].mp4", "gone.mp4", "gone"]
    assert [source for source in pictures + others if is_pictures(source)] == pictures
