"""Topics, the broker's address and the alert: what needs no broker."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebird.errors import UsageError
from edgebird.mqtt.address import BrokerAddress, parse_broker_url
from edgebird.mqtt.payloads import decode, encode, utc_iso, visit_payload
from edgebird.mqtt.topics import Topics, default_device, device_status, slug, visit_filter
from edgebird.structures import (
    Visit,
    VisitChanged,
)

MODEL_SHA256 = "9b" * 32
START_UTC_S = 1_741_944_605.12


def visit_changed(number: int, kind: str = "start") -> VisitChanged:
    ended_utc_s = START_UTC_S + number + 42.5 if kind == "end" else None
    visit = Visit(
        id=f"visit{number}",
        camera="Feeder 0",
        started_utc_s=START_UTC_S + number,
        duration_s=42.5 if kind == "end" else 0.0,
        ended_utc_s=ended_utc_s,
        peak_count=2,
        best_score=0.91239,
        best_xyxy=(64.04, 48.0, 128.0, 96.0),
        frame_size=(640, 480),
    )
    return VisitChanged(kind, visit)


# --- topics ---------------------------------------------------------------------------------------


@given(st.text())
def test_any_name_becomes_one_topic_level(name: str) -> None:
    level = slug(name)
    assert re.fullmatch(r"[a-z0-9_-]+", level)
    assert slug(level) == level


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("Feeder 0", "feeder-0"),
        ("/dev/video0", "dev-video0"),
        ("Mäuse/+#\0", "mause"),
        ("nest_box-2", "nest_box-2"),
    ],
)
def test_slug_keeps_what_can_be_read(name: str, level: str) -> None:
    assert slug(name) == level


def test_names_without_a_usable_character_stay_apart() -> None:
    assert slug("鳥") != slug("猫")


def test_topics_follow_the_contract() -> None:
    topics = Topics("Garden", "Feeder 0")
    assert device_status("Garden") == "edgebird/garden/status"
    assert topics.status == "edgebird/garden/feeder-0/status"
    assert topics.bird == "edgebird/garden/feeder-0/bird"
    assert topics.count == "edgebird/garden/feeder-0/count"
    assert topics.visit == "edgebird/garden/feeder-0/visit"
    assert topics.best == "edgebird/garden/feeder-0/best.jpg"
    assert topics.command("threshold") == "edgebird/garden/feeder-0/set/threshold"
    assert topics.value("threshold") == "edgebird/garden/feeder-0/threshold"
    assert topics.discovery("hub") == "hub/device/edgebird-garden/feeder-0/config"
    assert visit_filter() == "edgebird/+/+/visit"
    assert visit_filter("Garden") == "edgebird/garden/+/visit"


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_no_two_cameras_share_a_client_id(one: tuple[str, str], two: tuple[str, str]) -> None:
    a, b = Topics(*one), Topics(*two)
    assert (a == b) == (a.client_id == b.client_id)


def test_device_name_is_stable_and_hides_the_machine_id(tmp_path: Path) -> None:
    machine_id = tmp_path / "machine-id"
    machine_id.write_text("0123456789abcdef0123456789abcdef\n")
    device = default_device(machine_id)
    assert device == default_device(machine_id)
    assert re.fullmatch(r"[0-9a-f]{8}", device)
    assert device not in machine_id.read_text()


@pytest.mark.parametrize("content", [None, b"", b"uninitialized\n", b"\xff\xfe"])
def test_host_name_stands_in_for_a_machine_id(tmp_path: Path, content: bytes | None) -> None:
    machine_id = tmp_path / "machine-id"
    if content is not None:
        machine_id.write_bytes(content)
    assert default_device(machine_id) == slug(socket.gethostname())


# --- the broker's address -------------------------------------------------------------------------

# urlsplit() refuses a few characters that look like punctuation after normalization; they and
# everything else can be written as %XX.
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
hosts = st.one_of(
    st.from_regex(r"[a-z0-9]{1,20}(\.[a-z0-9]{1,20}){0,3}", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)


@given(hosts, st.integers(1, 65535), words, words, st.booleans())
def test_a_written_address_is_read_back(
    host: str, port: int, user: str, password: str, with_scheme: bool
) -> None:
    shown_host = f"[{host}]" if ":" in host else host
    url = f"{quote(user, safe='')}:{quote(password, safe='')}@{shown_host}:{port}"
    address = parse_broker_url("mqtt://" + url if with_scheme else url)
    assert address == BrokerAddress(host, port, user, password)
    assert str(address) == f"{shown_host}:{port}"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://host", BrokerAddress("host", 1883)),
        ("MQTT://host/", BrokerAddress("host", 1883)),
        ("host", BrokerAddress("host", 1883)),
        ("host:1884", BrokerAddress("host", 1884)),
        ("192.168.1.2", BrokerAddress("192.168.1.2", 1883)),
        ("mqtt://me@[::1]", BrokerAddress("::1", 1883, "me")),
        ("mqtts://host", BrokerAddress("host", 8883, scheme="mqtts")),
        ("ws://host:9001", BrokerAddress("host", 9001, scheme="ws")),
        ("wss://host/broker", BrokerAddress("host", 443, scheme="wss", path="/broker")),
        ("mqtt://a%40b:p%3Aw%2F%23@h", BrokerAddress("h", 1883, "a@b", "p:w/#")),
    ],
)
def test_short_forms_of_an_address(url: str, address: BrokerAddress) -> None:
    assert parse_broker_url(url) == address


BAD_ADDRESSES = [
    "",
    "mqtt://",
    "mqtt+tls://host",
    "http://host",
    "mqtt://host:port",
    "mqtt://host:0",
    "mqtt://host:99999",
    "mqtt://host/path",
    "mqtt://host?x=1",
    "mqtt://[::1",
    "::1",
    "mqtt://two words",
    "mqtt://a\0b",
    "mqtt://a..b",
    "mqtt://" + "a" * 64,
    "mqtt://:secret@host",
    "mqtt://user:se#secret@host",
    "mqtt://user:%ffsecret@host",
    "mqtt://user:secret\udcff@host",
]


@pytest.mark.parametrize("url", BAD_ADDRESSES)
def test_a_bad_address_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_broker_url(url)
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.text())
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        address = parse_broker_url(text)
    except UsageError:
        return
    assert address.host
    assert 1 <= address.port <= 65535


def test_an_address_never_shows_its_password() -> None:
    address = parse_broker_url("mqtt://me:secret@host")
    assert "secret" not in f"{address} {address!r}"


# --- payloads -------------------------------------------------------------------------------------


def test_the_alert_is_the_documented_json() -> None:
    payload = visit_payload(
        visit_changed(0, "end"), device="garden", camera="feeder-0", model_sha256=MODEL_SHA256
    )
    assert list(json.loads(encode(payload)).items()) == [
        ("event_type", "end"),
        ("visit", "visit0"),
        ("device", "garden"),
        ("camera", "feeder-0"),
        ("started", "2025-03-14T09:30:05.120Z"),
        ("ended", "2025-03-14T09:30:47.620Z"),
        ("duration_s", 42.5),
        ("peak_count", 2),
        ("score", 0.912),
        ("box", {"px": [64.0, 48.0, 128.0, 96.0], "fraction": [0.1001, 0.1, 0.2, 0.2]}),
        ("frame_size", [640, 480]),
        ("snapshot", None),
        ("model", MODEL_SHA256),
        ("age_s", 0.0),
    ]


def test_a_visit_that_goes_on_has_no_end() -> None:
    payload = visit_payload(visit_changed(0), device="d", camera="c", model_sha256=MODEL_SHA256)
    assert payload.event_type == "start"
    assert payload.ended is None


pixels = st.floats(0, 4000, width=32)
visits = st.builds(
    Visit,
    id=st.text(),
    camera=st.text(),
    started_utc_s=st.floats(0, 4e9),
    duration_s=st.floats(0, 1e6),
    ended_utc_s=st.none() | st.floats(0, 4e9),
    peak_count=st.integers(0, 100),
    best_score=st.floats(0, 1, width=32),
    best_xyxy=st.tuples(pixels, pixels, pixels, pixels),
    frame_size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    snapshot=st.none() | st.text(),
)


@given(visits, st.sampled_from(["start", "end"]))
def test_an_alert_is_read_back_as_it_was_written(visit: Visit, kind: str) -> None:
    payload = visit_payload(
        VisitChanged(kind, visit), device="d", camera="c", model_sha256=MODEL_SHA256
    )
    assert decode(encode(payload)) == payload


@given(st.floats(0, 4e9))
def test_times_have_milliseconds_and_a_z(utc_s: float) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", utc_iso(utc_s))


def test_a_reader_ignores_keys_it_does_not_know() -> None:
    payload = visit_payload(visit_changed(0), device="d", camera="c", model_sha256=MODEL_SHA256)
    later = json.loads(encode(payload)) | {"species": "robin"}
    assert decode(json.dumps(later).encode()) == payload


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("event_type", "middle"),
        ("device", "a/b"),
        ("device", "a\n"),
        ("camera", "\x1b[2J"),
        ("started", "yesterday"),
        ("started", "2025-03-14T09:30:05"),
        ("ended", "0001-01-01T00:00:00Z"),
        ("ended", ""),
        ("score", 1.5),
        ("box", None),
        ("frame_size", [640, 0]),
    ],
)
def test_what_is_no_alert_is_refused(key: str, value: object) -> None:
    payload = visit_payload(visit_changed(0), device="d", camera="c", model_sha256=MODEL_SHA256)
    wrong = json.loads(encode(payload)) | {key: value}
    with pytest.raises(ValueError, match=r"."):
        decode(json.dumps(wrong).encode())


def test_what_is_nested_without_end_is_no_alert() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        decode(b'{"later": ' + b"[" * 200_000)


@given(st.binary())
def test_any_bytes_are_an_alert_or_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(data)
