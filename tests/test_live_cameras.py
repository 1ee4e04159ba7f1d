"""A camera that is lost, hangs or dies comes back, and costs nobody anything meanwhile."""

from __future__ import annotations

import gc
import io
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import eventually
from stand_ins import SIZE, StandInLibcamera, StandInPicamera2, red_picture, scripted_camera

from edgebird import logs
from edgebird.camera import open_camera
from edgebird.camera.live import LiveCamera, Patience
from edgebird.camera.opencv import OpenCVCapture
from edgebird.camera.picamera import PicameraCapture, open_picamera
from edgebird.camera.settings import CameraSettings, turned
from edgebird.camera.slot import Picture, Slot
from edgebird.camera.worker import serve
from edgebird.errors import CameraError
from edgebird.structures import Frame, Silence

# a busy machine may take long to start a process, but not to read from one
IMPATIENT = Patience(open_s=60, read_s=2.0)


def frames_of(camera: LiveCamera, count: int) -> list[Frame]:
    frames = (event for event in camera.frames() if isinstance(event, Frame))
    taken = list(islice(frames, count))
    camera.close()
    return taken


# the slot between two processes


def test_the_slot_gives_the_newest_picture_with_its_time_and_counts_the_others() -> None:
    slot = Slot.create()
    assert slot.take() == (None, 0)
    for shade in range(7):
        pixels = np.full((4, 6, 3), (shade, 0, 9), np.uint8)
        slot.put(Picture(pixels, shade + 0.5, 1000.0 + shade, np.full((2, 3), shade, np.uint8)))
    reader = Slot(os.dup(slot.memory_fd), os.dup(slot.count_fd))
    picture, missed = reader.take()
    assert picture is not None
    assert picture.pixels[0, 0].tolist() == [9, 0, 6]
    assert (picture.monotonic_s, picture.utc_s, missed) == (6.5, 1006.0, 6)
    assert picture.luma is not None
    assert picture.luma.tolist() == [[6] * 3] * 2
    assert reader.take() == (None, 0)
    reader.close()
    slot.close()


def test_a_picture_too_large_for_the_slot_is_refused() -> None:
    slot = Slot.create()
    with pytest.raises(ValueError, match="8000 x 8000"):
        slot.put(Picture(np.broadcast_to(np.uint8(0), (8000, 8000, 3)), 0, 0))
    slot.close()


# loss and return


def test_a_live_camera_gives_the_newest_picture_and_counts_the_dropped(tmp_path: Path) -> None:
    camera = scripted_camera({"play": 11, "then": "hang"}, state=tmp_path / "n")
    seen = []
    for event in camera.frames():
        if isinstance(event, Frame):
            seen.append(int(event.image[0, 0, 0]))
            if seen[-1] == 10:
                break
            time.sleep(0.05)
    camera.close()
    assert seen == sorted(seen)
    assert len(seen) + camera.dropped == 11
    assert camera.dropped > 0


def test_a_lost_camera_is_opened_again_and_both_are_logged_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    refusal = {"refuse": "still away"}
    script = [{"play": 3, "then": "end"}, refusal, refusal, {"play": 90, "then": "hang"}]
    camera = scripted_camera(*script, state=tmp_path / "n")
    caplog.set_level(logging.WARNING)
    events = []
    for event in camera.frames():
        events.append(event)
        if isinstance(event, Frame) and any(isinstance(e, Silence) and e.lost for e in events):
            break
    camera.close()
    assert caplog.messages == [
        "camera cam is lost: it gives no pictures any more; trying again",
        "camera cam is back",
    ]
    silences = [event for event in events if isinstance(event, Silence)]
    assert silences[-1].error == "still away"
    assert (tmp_path / "n").read_text() == "4"


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ("hang", "it does not answer"),
        ("die", "its process has ended"),
        ("break", "the camera's process ended with ZeroDivisionError('the driver is broken')"),
    ],
)
def test_a_camera_process_that_hangs_or_dies_is_replaced(
    then: str, told: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    script = [{"play": 2, "then": then}, {"play": 500, "then": "hang", "pace_s": 0.05}]
    camera = scripted_camera(*script, state=tmp_path / "n", patience=IMPATIENT)
    first = camera.process_id
    frames = []
    for event in camera.frames():
        if isinstance(event, Frame):
            frames.append(event)
            if camera.process_id != first:
                break
    camera.close()
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert caplog.messages == [
        f"camera cam is lost: {told}; trying again",
        "camera cam is back",
    ]
    eventually(lambda: not Path(f"/proc/{first}").exists())


def test_a_camera_process_that_ends_is_replaced_with_the_cameras_own_error_kept(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    script = [{"play": 1, "then": "end"}, {"refuse": "still away"}]
    camera = scripted_camera(*script, state=tmp_path / "n")
    first = camera.process_id
    errors = []
    for event in camera.frames():
        if isinstance(event, Silence):
            errors.append(event.error)
            if event.error == "still away":
                camera._reader.kill()
        if camera.process_id != first:
            break
    camera.close()
    since = errors[errors.index("still away") :]
    assert set(since) == {"still away"}
    assert len(since) > 1
    assert len(caplog.messages) == 1


def test_a_camera_that_cannot_be_opened_for_long_gets_a_new_process_in_time() -> None:
    left_open: list[int] = []
    pauses_s: list[float] = []

    def opens_a_pipe_and_fails() -> Any:
        assert len(left_open) < 1000, "no file can be opened any more"
        left_open.extend((0, 1))
        raise CameraError("it is in use by another program")

    def pause(seconds: float) -> None:
        pauses_s.append(seconds)

    said: list[dict[str, str]] = []
    slot = Slot.create()
    serve(opens_a_pipe_and_fails, slot, said.append, pause=pause)
    slot.close()
    assert said[-1] == {"state": "closed", "error": "it is in use by another program"}
    # starting a process costs a small board seconds, so it is not done often either
    assert sum(pauses_s) > 120


@pytest.mark.parametrize(("lasts_s", "last_pause_s"), [(0.0, 5.0), (9.0, 5.0), (11.0, 0.5)])
def test_only_a_camera_that_stayed_for_a_while_is_opened_again_at_once(
    lasts_s: float, last_pause_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_s: list[float] = [0.0]
    pauses_s: list[float] = []

    class OnePicture:
        """What an address with a single picture gives."""

        def __init__(self) -> None:
            self.pictures = [Picture(red_picture(), 0.0, 0.0)]
            self.end_s = times_s[-1] + lasts_s

        def read(self) -> Picture | None:
            if self.pictures:
                return self.pictures.pop()
            times_s.append(self.end_s)
            return None

        def release(self) -> None:
            pass

    monkeypatch.setattr("edgebird.camera.worker.MOST_OPENINGS", 6)
    slot = Slot.create()
    serve(
        OnePicture,
        slot,
        lambda message: None,
        pause=pauses_s.append,
        clock=lambda: times_s[-1],
    )
    slot.close()
    assert pauses_s[0] == pytest.approx(0.5, rel=0.21)
    assert pauses_s[-1] == pytest.approx(last_pause_s, rel=0.21)


@pytest.mark.parametrize(
    ("goes_on", "waits_for"),
    [({"refuse": "still away"}, "open"), ({"play": 500, "then": "hang"}, "next")],
)
def test_a_picture_from_before_the_camera_was_closed_does_not_open_it_again(
    tmp_path: Path, goes_on: dict[str, Any], waits_for: str
) -> None:
    camera = scripted_camera({"play": 30, "then": "end"}, goes_on, state=tmp_path / "n")
    # more than one thing happens while nobody asks
    eventually(lambda: (tmp_path / "n").read_text() == "2")
    time.sleep(0.3)
    reader = camera._reader
    assert reader.take()[0] is not None
    assert reader._waits_for == waits_for
    assert (reader.problem is None) == (waits_for == "next")
    camera.close()


def test_closing_ends_frames_although_a_read_hangs(tmp_path: Path) -> None:
    camera = scripted_camera({"play": 1, "then": "hang"}, state=tmp_path / "n")
    rest: list[Any] = []
    consumer = threading.Thread(target=lambda: rest.extend(camera.frames()))
    consumer.start()
    time.sleep(0.1)
    camera.close()
    consumer.join(10)
    assert not consumer.is_alive()
    assert len([event for event in rest if isinstance(event, Frame)]) <= 1


def test_nothing_is_left_of_a_closed_camera(tmp_path: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()  # what earlier tests left is not ours
    before, threads = open_files(), threading.active_count()
    for number in range(3):
        camera = scripted_camera({"play": 50, "then": "hang"}, state=tmp_path / str(number))
        if number:
            next(camera.frames())
        camera.restart()
        process = camera.process_id
        camera.close()
        eventually(lambda process=process: not Path(f"/proc/{process}").exists(), 60)
    gc.collect()
    assert open_files() <= before
    assert threading.active_count() == threads


def test_the_camera_process_ends_with_its_parent(tmp_path: Path) -> None:
    camera = scripted_camera({"play": 1, "then": "hang"}, state=tmp_path / "n")
    process = camera._reader.process
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 0
    camera.close()


def test_a_camera_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="the cable is loose"):
        scripted_camera({"refuse": "the cable is loose"}, state=tmp_path / "n")


def test_a_camera_that_opens_but_gives_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="camera cam opens but gives no picture"):
        scripted_camera({"play": 0, "then": "end"}, state=tmp_path / "n")


def test_a_stream_that_opens_but_gives_nothing_may_be_in_a_format_that_is_not_known(
    tmp_path: Path,
) -> None:
    script = {"script": [{"play": 0, "then": "end"}], "state": str(tmp_path / "n")}
    with pytest.raises(CameraError) as caught:
        LiveCamera("stand_ins:scripted_capture", script, source="rtsp://cam/x")
    told = "camera rtsp://cam/x opens but gives no picture: set the camera to H.264, H.265 or MJPEG"
    assert str(caught.value) == told


@pytest.mark.parametrize("told", ["camera cam cannot be opened", "camera cam: cannot be opened"])
def test_a_lost_camera_is_named_once(
    told: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    script = {"script": [{"refuse": told}], "state": str(tmp_path / "n")}
    camera = LiveCamera("stand_ins:scripted_capture", script, source="cam", required=False)
    next(event for event in camera.frames() if isinstance(event, Silence) and event.lost)
    camera.close()
    assert caplog.messages == ["camera cam is lost: cannot be opened; trying again"]


def test_pictures_that_are_too_large_are_told_once_with_what_to_do(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    large = {"play": 9, "then": "hang", "size": (4656, 3496)}
    with pytest.raises(CameraError, match=r"camera cam .* 4656 x 3496 .* set camera\.size to"):
        scripted_camera(large, state=tmp_path / "one")
    script = [{"play": 2, "then": "end"}, large, large, {"play": 9, "then": "hang"}]
    camera = scripted_camera(*script, state=tmp_path / "two")
    process = camera.process_id
    events: list[Frame | Silence] = []
    for event in camera.frames():
        events.append(event)
        if (tmp_path / "two").read_text() == "4" and isinstance(event, Frame):
            break
    assert camera.process_id == process
    camera.close()
    assert any(isinstance(e, Silence) and "4656 x 3496" in (e.error or "") for e in events)
    assert len(caplog.messages) == 2


# what its process lets others see


def test_a_library_that_complains_of_each_picture_neither_stops_it_nor_fills_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = io.StringIO()
    logs.set_up(log)
    # more than a pipe holds
    script = [{"play": 30, "then": "end", "complaints": 500}, {"play": 9, "then": "hang"}]
    camera = scripted_camera(*script, state=tmp_path / "n")
    # it goes on while nobody reads that
    eventually(lambda: (tmp_path / "n").read_text() == "2")
    assert len(frames_of(camera, 1)) == 1
    lines = [line for line in log.getvalue().splitlines() if "JPEG" in line]
    assert len(lines) == 5
    assert lines[0] == "camera cam: Corrupt JPEG data: 0 extraneous bytes before marker 0xd7"
    assert capfd.readouterr() == ("", "")


def test_the_last_words_of_a_camera_process_are_logged(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    script = {"play": 1, "then": "die", "complaints": 1}
    camera = scripted_camera(script, state=tmp_path / "n")
    assert camera._reader.process.wait(10) == 1
    camera.close()
    line = "camera cam: Corrupt JPEG data: 0 extraneous bytes before marker 0xd7"
    assert caplog.messages == [line]


def test_a_password_is_not_in_the_list_of_processes() -> None:
    camera = open_camera("rtsp://cam:geheim@127.0.0.1:9/", required=False)
    assert isinstance(camera, LiveCamera)
    process = Path(f"/proc/{camera.process_id}")
    eventually(lambda: b"edgebird.camera.worker" in (process / "cmdline").read_bytes())
    assert b"geheim" not in (process / "cmdline").read_bytes()
    assert b"geheim" not in (process / "environ").read_bytes()
    # and yet it was told
    frames = camera.frames()
    eventually(lambda: "***@127.0.0.1" in (getattr(next(frames), "error", "") or ""))
    camera.close()


# what is asked of a camera


def test_pictures_are_mirrored_first_and_then_turned_clockwise() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert turned(image, CameraSettings(rotate=90)).tolist() == [[3, 0], [4, 1], [5, 2]]
    assert turned(image, CameraSettings(flip_horizontal=True)).tolist() == [[2, 1, 0], [5, 4, 3]]
    both = CameraSettings(flip_vertical=True, rotate=180)
    assert turned(image, both).tolist() == [[2, 1, 0], [5, 4, 3]]


class FastCapture:
    """As much of cv2.VideoCapture as is used; takes what is set and gives pictures at once."""

    def __init__(self) -> None:
        self.grabbed = self.retrieved = 0

    def grab(self) -> bool:
        self.grabbed += 1
        return True

    def retrieve(self) -> tuple[bool, Any]:
        self.retrieved += 1
        return True, red_picture()


def test_pictures_above_the_wanted_rate_are_not_decoded() -> None:
    fast: Any = FastCapture()
    # a camera with 200 pictures a second
    capture = OpenCVCapture(fast, CameraSettings(fps=20), clock=lambda: fast.grabbed * 0.005)
    for _ in range(5):
        assert capture.read() is not None
    assert fast.retrieved == 5
    assert fast.grabbed == pytest.approx(1 + 4 * 9, abs=4)


class StoppedStream(FastCapture):
    """A stream that stops: FFmpeg waits in vain, and then gives pictures that it still held."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def grab(self) -> bool:
        self.now_s += 8.02 if self.grabbed == 3 else 0.1
        return super().grab()


def test_an_old_picture_of_a_stream_that_has_stopped_is_not_taken_for_a_new_one() -> None:
    stopped: Any = StoppedStream()
    capture = OpenCVCapture(stopped, CameraSettings(), clock=lambda: stopped.now_s)
    assert [capture.read() is not None for _ in range(6)] == [True] * 3 + [False] * 3
    assert stopped.retrieved == 3


# the ribbon camera


def configured(make: Callable[[int], Any] = StandInPicamera2, **settings: Any) -> dict[str, Any]:
    made: list[Any] = []

    def remember(number: int) -> Any:
        made.append(make(number))
        return made[-1]

    wanted = CameraSettings(**{"size": SIZE, **settings})
    PicameraCapture(remember, StandInLibcamera, 0, wanted).release()
    assert not made[0].started
    configuration: dict[str, Any] = made[0].configuration
    return configuration


def test_a_ribbon_camera_gives_full_detail_and_a_small_luma_of_the_same_moment() -> None:
    camera = open_picamera(
        settings=CameraSettings(size=(640, 480), fps=12), opener="stand_ins:picamera_stand_in"
    )
    [frame] = frames_of(camera, 1)
    assert frame.size == (640, 480)
    assert frame.luma is not None
    assert frame.luma.shape == (240, 320)
    assert (frame.luma == 77).all()
    assert 0.02 < time.monotonic() - frame.monotonic_s < 60


def test_the_padding_of_luma_rows_is_cut_off() -> None:
    capture = PicameraCapture(StandInPicamera2, StandInLibcamera, 0, CameraSettings(size=SIZE))
    for _ in range(5):
        picture = capture.read()
        assert picture is not None
        assert picture.luma is not None
        assert picture.luma.shape == (48, 64)
        assert (picture.luma == 77).all()


def test_a_ribbon_camera_is_asked_for_what_it_can_do() -> None:
    configuration = configured(fps=12, exposure_us=5000, gain=2.0)
    assert configuration["main"] == {"size": SIZE, "format": "RGB888"}
    assert configuration["buffer_count"] == 3
    assert configuration["colour_space"] == "from 0 to 255"
    # it has no control for gain
    assert configuration["controls"] == {"FrameRate": 12, "AfMode": 2, "ExposureTime": 5000}
    fixed = configured(autofocus="fixed", focus_dioptres=2.5)["controls"]
    assert (fixed["AfMode"], fixed["LensPosition"]) == (0, 2.5)


@pytest.mark.parametrize(
    ("pixel_array", "size", "raw"),
    [
        # Camera Modules 3, 2 and 1 and the HQ Camera: their modes of all pixels two by two
        ((4608, 2592), None, (2304, 1296)),
        ((3280, 2464), None, (1640, 1232)),
        ((2592, 1944), None, (1296, 972)),
        ((4056, 3040), (1920, 1080), (2028, 1520)),
        # one with few pixels, one with so many that a half of them does not fit a small board
        ((1456, 1088), None, (1456, 1088)),
        ((9248, 6944), None, (2312, 1736)),
        ((3290, 2470), None, (1644, 1234)),
        # too large a wish for that, and a camera that does not tell
        ((3280, 2464), (1920, 1080), None),
        ((2592, 1944), (1280, 974), None),
        (None, None, None),
    ],
)
def test_a_ribbon_camera_shows_all_that_its_sensor_sees(
    pixel_array: tuple[int, int] | None, size: tuple[int, int] | None, raw: tuple[int, int] | None
) -> None:
    class Sensor(StandInPicamera2):
        camera_properties = {"PixelArraySize": pixel_array} if pixel_array else {}

    configuration = configured(Sensor, size=size)
    assert configuration["main"]["size"] == (size or (1280, 720))
    assert configuration["raw"].get("size") == raw


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", [(False, False), (True, False), (False, True)])
def test_a_ribbon_camera_turns_as_any_other(rotate: Any, flip: tuple[bool, bool]) -> None:
    scene = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)

    class Turning(StandInPicamera2):
        """Mirrors in the camera, as it is told."""

        def capture_request(self, wait: bool) -> Any:
            request = super().capture_request(wait)
            horizontal, vertical = self.configuration["transform"]
            pixels = scene[:: -1 if vertical else 1, :: -1 if horizontal else 1]
            luma = request.make_array("lores")
            request.make_array = lambda name: pixels if name == "main" else luma  # type: ignore[method-assign]
            return request

    settings = CameraSettings(
        size=SIZE, rotate=rotate, flip_horizontal=flip[0], flip_vertical=flip[1]
    )
    picture = PicameraCapture(Turning, StandInLibcamera, 0, settings).read()
    assert picture is not None
    np.testing.assert_array_equal(picture.pixels, turned(scene, settings))


def test_a_ribbon_camera_that_stalls_is_lost_and_opened_again() -> None:
    arguments = {"number": 0, "settings": asdict(CameraSettings(size=SIZE)), "stall": True}
    camera = LiveCamera("stand_ins:picamera_stand_in", arguments, source="picamera2:0")
    assert len(frames_of(camera, 2)) == 2


def test_a_ribbon_camera_that_is_not_there_is_an_error() -> None:
    with pytest.raises(CameraError, match=r"picamera2:1 cannot be opened.*ribbon cable"):
        open_picamera(1, opener="stand_ins:picamera_stand_in")


def test_a_missing_picamera2_says_how_to_get_it() -> None:
    with pytest.raises(CameraError, match=r"install\.sh --camera picamera2"):
        open_camera("picamera2")
