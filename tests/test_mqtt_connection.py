"""Connections of every kind to a real broker, and what is said when one fails."""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Mosquitto, eventually
from test_mqtt import visit_changed
from test_mqtt_delivery import ScriptedBroker, retained, subscriber

from edgebird.config import MqttSection
from edgebird.controls import Controls
from edgebird.errors import BrokerError, UsageError
from edgebird.mqtt.address import BrokerAddress, broker_address
from edgebird.mqtt.check import check_broker, publish
from edgebird.mqtt.connection import Connection, Message, Retry
from edgebird.mqtt.forget import forget_camera
from edgebird.mqtt.former import FormerName
from edgebird.mqtt.topics import Topics
from edgebird.sinks.mqtt import MqttSink

# paho leaves the socket of a failed handshake to the garbage collector
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"),
]
QUICK = Retry(first_s=0.1, last_s=0.5, refused_s=0.2)


class Client:
    """A connection that notes what it is told."""

    def __init__(self, address: BrokerAddress, client_id: str = "") -> None:
        self.messages: list[Message] = []
        self.problems: list[str] = []
        self.acknowledged: list[tuple[int, str | None]] = []
        self.answers: list[str | None] = []
        self.connection = Connection(
            address,
            client_id=client_id,
            on_connected=lambda: None,
            on_message=self.messages.append,
            on_acknowledged=lambda number, refusal: self.acknowledged.append((number, refusal)),
            on_subscribed=self.answers.extend,
            on_problem=self.problems.append,
            retry=QUICK,
        )
        self.connection.start()


@contextmanager
def connecting(address: BrokerAddress, client_id: str = "") -> Iterator[Client]:
    client = Client(address, client_id)
    try:
        yield client
    finally:
        client.connection.stop(5)


def works(client: Client) -> bool:
    """A message goes there and comes back."""
    eventually(lambda: client.connection.connected)
    client.connection.subscribe("test/topic")
    eventually(lambda: client.answers)
    number = client.connection.publish("test/topic", b"hello", qos=1, retain=False)
    eventually(lambda: client.messages and client.acknowledged)
    assert client.acknowledged == [(number, None)]
    return client.messages == [Message("test/topic", b"hello", False)]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, certificates of 127.0.0.1 and localhost, one expired, and one of a client."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test ca")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    for name in ("server", "client"):
        openssl(
            "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"
        )
        authority = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *authority)
        openssl(
            "x509",
            "-req",
            "-in",
            f"{name}.csr",
            "-out",
            f"{name}.crt",
            *authority,
            "-extfile",
            "names",
        )
    expired = ("-out", "expired.crt", "-days", "-1", "-extfile", "names")
    openssl("x509", "-req", "-in", "server.csr", *authority, *expired)
    return folder


def tls_settings(folder: Path, *more: str) -> str:
    files = [f"cafile {folder}/ca.crt", f"certfile {folder}/server.crt"]
    return "\n".join([*files, f"keyfile {folder}/server.key", "allow_anonymous true", *more])


def second_listener(folder: Path) -> str:
    """Mosquitto 2.0.11 does not start with a WebSocket alone; a path takes no port from it."""
    return f"listener 0 {folder}/mqtt.sock\nallow_anonymous true"


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_both_versions_of_the_protocol(mosquitto: Mosquitto, version: str) -> None:
    address = replace(mosquitto.address, version=version)  # type: ignore[arg-type]
    with connecting(address) as client:
        assert works(client)
        told = client.connection.limits.maximum_packet_size, client.connection.limits
        assert (told[1].topic_alias_maximum is not None) == (version == "5")


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_alerts_and_states_arrive_over_either_version(mosquitto: Mosquitto, version: str) -> None:
    address = replace(mosquitto.address, version=version)  # type: ignore[arg-type]
    device = f"version-{version}"
    sink = MqttSink(address, device=device, camera="c", model_sha256="x", controls=Controls(0.5))
    with subscriber(mosquitto.address, device.replace(".", "-")) as client, closing(sink):
        sink.emit(visit_changed(0))
        eventually(lambda: client.visits() == ["visit0"])
        eventually(lambda: client.values("count") == ["0"])


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_over_a_websocket(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path, version: str
) -> None:
    listeners = f"protocol websockets\nallow_anonymous true\n{second_listener(tmp_path)}"
    broker = new_mosquitto(listeners)
    broker.start()
    address = replace(broker.address, scheme="ws", version=version)  # type: ignore[arg-type]
    with connecting(address) as client:
        assert works(client)


@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
def test_over_tls_with_an_authority_of_ones_own(
    new_mosquitto: Callable[..., Mosquitto], certificates: Path, tmp_path: Path, scheme: str
) -> None:
    websocket = ["protocol websockets", second_listener(tmp_path)] if scheme == "wss" else []
    broker = new_mosquitto(tls_settings(certificates, *websocket))
    broker.start()
    authority = str(certificates / "ca.crt")
    address = replace(broker.address, scheme=scheme, ca_file=authority)  # type: ignore[arg-type]
    with connecting(address) as client:
        assert works(client)


def test_a_certificate_that_nobody_vouches_for_is_refused(
    new_mosquitto: Callable[..., Mosquitto], certificates: Path
) -> None:
    broker = new_mosquitto(tls_settings(certificates))
    broker.start()
    with connecting(replace(broker.address, scheme="mqtts")) as client:
        eventually(lambda: client.problems)
        time.sleep(1)
        assert not client.connection.connected
        (problem,) = client.problems
    assert "has a certificate that is not trusted" in problem
    assert "set ca_file" in problem


def test_a_certificate_that_has_expired_may_be_the_clocks_fault(
    new_mosquitto: Callable[..., Mosquitto], certificates: Path
) -> None:
    expired = tls_settings(certificates).replace("server.crt", "expired.crt")
    broker = new_mosquitto(expired)
    broker.start()
    authority = str(certificates / "ca.crt")
    with connecting(replace(broker.address, scheme="mqtts", ca_file=authority)) as client:
        eventually(lambda: client.problems)
        (problem,) = client.problems
    assert "certificate has expired" in problem
    assert "check its clock with 'date'" in problem
    assert "ca_file" not in problem


def test_a_certificate_of_another_host_is_refused(
    new_mosquitto: Callable[..., Mosquitto], certificates: Path
) -> None:
    broker = new_mosquitto(tls_settings(certificates))
    broker.start()
    authority = str(certificates / "ca.crt")
    # The same place by a name that is not in the certificate.
    address = replace(broker.address, host="127.1", scheme="mqtts", ca_file=authority)
    with connecting(address) as client:
        eventually(lambda: client.problems)
        assert "has a certificate that is not trusted" in client.problems[0]
        assert not client.connection.connected


def test_a_broker_that_wants_a_certificate_of_ours_gets_it(
    new_mosquitto: Callable[..., Mosquitto], certificates: Path
) -> None:
    broker = new_mosquitto(tls_settings(certificates, "require_certificate true"))
    broker.start()
    address = replace(broker.address, scheme="mqtts", ca_file=str(certificates / "ca.crt"))
    with connecting(address) as client:
        eventually(lambda: client.problems)
        assert not client.connection.connected
    ours = {"cert_file": str(certificates / "client.crt")}
    ours["key_file"] = str(certificates / "client.key")
    with connecting(replace(address, **ours)) as client:
        assert works(client)


def test_tls_to_a_broker_without_it_is_one_line(mosquitto: Mosquitto) -> None:
    with connecting(replace(mosquitto.address, scheme="mqtts")) as client:
        eventually(lambda: client.problems)
        time.sleep(0.5)
        (problem,) = client.problems
    assert "\n" not in problem
    assert "TLS" in problem or "cannot be reached" in problem


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_wrong_password_is_one_line_and_is_tried_slowly(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path, version: str
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "me", "right"], check=True)
    broker = new_mosquitto(f"allow_anonymous false\npassword_file {passwords}")
    broker.start()
    address = replace(
        broker.address,
        user="me",
        password="wrong",
        version=version,  # type: ignore[arg-type]
    )
    with connecting(address) as client:
        eventually(lambda: broker.log().count("not authorised") >= 2)
        assert not client.connection.connected
    assert client.problems == [
        f"the MQTT broker at {broker.address} refuses the connection (Not authorized): "
        "check user and password"
    ]


def test_waits_grow_and_a_refusal_is_tried_each_minute() -> None:
    assert Retry().first_s < Retry().last_s <= Retry().refused_s == 60


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_two_of_one_name_are_told_so(mosquitto: Mosquitto, version: str) -> None:
    address = replace(mosquitto.address, version=version)  # type: ignore[arg-type]
    with connecting(address, "twin") as one, connecting(address, "twin") as two:
        eventually(lambda: any("another edgebird" in p for p in one.problems + two.problems))


def test_a_broker_that_hangs_up_on_what_is_too_large_is_told_so(
    new_mosquitto: Callable[..., Mosquitto],
) -> None:
    broker = new_mosquitto("allow_anonymous true\nmax_packet_size 20000")
    broker.start()
    with connecting(broker.address) as client:

        def told() -> bool:
            client.connection.publish("test/large", bytes(30_000), qos=1, retain=True)
            return any("larger than it takes" in problem for problem in client.problems)

        eventually(told)
        assert all("\n" not in problem for problem in client.problems)


def test_a_connection_that_comes_back_is_a_new_session(
    new_mosquitto: Callable[..., Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broker = new_mosquitto()
    broker.start()
    with connecting(broker.address, "one") as client:
        eventually(lambda: client.connection.connects == 1)
        broker.freeze()
        client.connection.publish("test/a", b"old", qos=1, retain=True)
        broker.kill()
        eventually(lambda: client.problems)
        assert client.connection.publish("test/a", b"lost", qos=1, retain=True) is None
        broker.start()
        eventually(lambda: client.connection.connects == 2)
        # Of the session before nothing is sent again, and nothing is sent in its name.
        old = client.connection.publish("test/a", b"late", qos=1, retain=True, session=1)
        assert old is None
        time.sleep(0.3)
        client.connection.subscribe("test/a")
        eventually(lambda: client.answers)
        time.sleep(0.3)
        assert client.messages == []
    assert "is back" in caplog.text


def test_subscriptions_that_are_refused_are_told(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read allowed/#\n")
    broker = new_mosquitto(f"allow_anonymous true\nacl_file {rules}")
    broker.start()
    with connecting(replace(broker.address, version="5")) as client:
        eventually(lambda: client.connection.connected)
        client.connection.publish("forbidden", b"", qos=1, retain=False)
        eventually(lambda: client.acknowledged)
        assert client.acknowledged[0][1] == "Not authorized"


# --- asking a broker and waiting ------------------------------------------------------------------


def test_a_message_that_the_broker_does_not_want_is_not_called_published() -> None:
    refused = "does not let us publish to edgebird/a: Not authorized$"
    with (
        closing(ScriptedBroker(lambda topic, payload: 0x87)) as broker,
        pytest.raises(BrokerError, match=refused),
    ):
        publish(broker.address, [("edgebird/a", b"1")])


def test_a_broker_that_hangs_up_at_a_shared_subscription_has_none(
    new_mosquitto: Callable[..., Mosquitto],
) -> None:
    # next to the picture, its filter is the only thing that is too long for this one
    broker = new_mosquitto("allow_anonymous true\nmax_packet_size 50")
    broker.start()
    report = check_broker(broker.address, device="d", rounds=1)
    assert (report.retained, report.shared, report.picture_ms) == (True, False, None)


# --- forgetting a camera --------------------------------------------------------------------------

GONE = Topics("gone", "c")
DISCOVERY = GONE.discovery("homeassistant")


def with_a_gone_camera(
    new_mosquitto: Callable[..., Mosquitto], folder: Path, rules: str
) -> BrokerAddress:
    """A broker that keeps two topics of it and lets nobody but an owner do more than the rules."""
    passwords, acl = folder / "passwords", folder / "acl"
    subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "owner", "right"], check=True)
    acl.write_text(f"{rules}\nuser owner\ntopic readwrite #\n")
    broker = new_mosquitto(f"allow_anonymous true\npassword_file {passwords}\nacl_file {acl}")
    broker.start()
    owner = replace(broker.address, user="owner", password="right")
    with connecting(owner) as client:
        eventually(lambda: client.connection.connected)
        client.connection.publish(GONE.count, b"0", qos=1, retain=True)
        client.connection.publish(DISCOVERY, b"{}", qos=1, retain=True)
        eventually(lambda: len(client.acknowledged) == 2)
    return broker.address


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("3.1.1", "does not let us clear edgebird/gone/c/count, homeassistant/device/"),
        ("5", "does not let us clear all of edgebird/gone/c: Not authorized"),
    ],
)
def test_a_camera_that_may_only_be_read_is_not_called_forgotten(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path, version: str, reason: str
) -> None:
    address = with_a_gone_camera(new_mosquitto, tmp_path, "topic read #\ntopic write +/+/marker")
    with pytest.raises(BrokerError, match=reason) as caught:
        forget_camera(replace(address, version=version), GONE, "homeassistant")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert retained(address, "gone") == {"c/count": "0"}


def test_what_is_left_of_a_camera_is_named(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    rules = "topic readwrite edgebird/#\ntopic read homeassistant/#"
    address = with_a_gone_camera(new_mosquitto, tmp_path, rules)
    with pytest.raises(BrokerError, match=f"does not let us clear {DISCOVERY}$"):
        forget_camera(address, GONE, "homeassistant")
    assert retained(address, "gone") == {}


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_what_may_be_cleared_is_cleared_while_others_publish(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path, version: str
) -> None:
    address = with_a_gone_camera(new_mosquitto, tmp_path, "topic readwrite #")
    done = threading.Event()

    def publish() -> None:
        while not done.wait(0.1):
            client.connection.publish(GONE.detections, b"[]", qos=0, retain=False)

    with connecting(address) as client:
        thread = threading.Thread(target=publish)
        thread.start()
        try:
            cleared = forget_camera(
                replace(address, version=version),  # type: ignore[arg-type]
                GONE,
                "homeassistant",
            )
        finally:
            done.set()
            thread.join()
    assert cleared == [GONE.count, DISCOVERY]
    assert retained(address, "gone") == {}


def test_a_former_name_that_may_not_be_cleared_is_told_once(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = with_a_gone_camera(new_mosquitto, tmp_path, "topic read #")
    settled = threading.Event()
    former = FormerName(address, GONE, discovery_prefix="homeassistant", on_done=settled.set)
    with closing(former):
        former.try_now()
        assert settled.wait(20)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the topics edgebird/gone/c stay: ")
    assert "does not let us clear" in line


def test_a_camera_that_may_not_be_read_is_not_called_forgotten() -> None:
    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"\x20\x02\x00\x00")  # welcome
            subscription = connection.recv(1000)
            connection.sendall(
                b"\x90\x04" + subscription[2:4] + b"\x80\x00"
            )  # the first is refused
            connection.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        address = BrokerAddress("127.0.0.1", server.getsockname()[1])
        with pytest.raises(BrokerError, match="does not let us read edgebird/gone/c/# and home"):
            forget_camera(address, GONE, "homeassistant")
        thread.join(20)


# --- settings -------------------------------------------------------------------------------------


def settings(**values: object) -> MqttSection:
    return MqttSection(**({"url": "mqtt://host"} | values))  # type: ignore[arg-type]


def test_the_password_comes_from_a_file_the_url_the_environment_or_systemd(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from file\nand a second line\n")
    (tmp_path / "mqtt-password").write_text("from systemd\n")
    systemd = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    environment = {"EDGEBIRD_MQTT_USER": "env", "EDGEBIRD_MQTT_PASSWORD": "from environment"}

    def who(section: MqttSection, surroundings: dict[str, str]) -> tuple[str | None, str | None]:
        address = broker_address(section, surroundings)
        assert "from" not in f"{address} {address!r}"
        return address.user, address.password

    everything = environment | systemd
    in_url = settings(url="mqtt://url:from-url@host", password_file=str(file))
    assert who(in_url, everything) == ("url", "from file")
    assert who(settings(url="mqtt://url:x@host"), everything) == ("url", "x")
    assert who(settings(user="set"), everything) == ("set", "from environment")
    assert who(settings(), everything) == ("env", "from environment")
    assert who(settings(user="set"), systemd) == ("set", "from systemd")
    (tmp_path / "mqtt-password").write_text("\n")  # what the unit has where there is no file
    assert who(settings(user="set"), systemd) == ("set", None)
    assert who(settings(), {}) == (None, None)


def test_a_password_that_is_not_utf_8_is_one_line_that_does_not_repeat_it() -> None:
    secret = "s3cr\udcfft"  # what Python makes of other bytes in the environment
    environment = {"EDGEBIRD_MQTT_USER": "me", "EDGEBIRD_MQTT_PASSWORD": secret}
    with pytest.raises(UsageError, match="EDGEBIRD_MQTT_PASSWORD is not UTF-8") as caught:
        broker_address(settings(), environment)
    assert "s3cr" not in str(caught.value)
    assert str(caught.value).isascii()


def test_an_address_that_cannot_be_used_is_told_and_tried_again() -> None:
    with connecting(BrokerAddress("127.0.0.1", 1, "me", "s3cr\udcfft")) as client:
        eventually(lambda: client.problems)
        assert client.connection._thread.is_alive()


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"password_file": "/nowhere/password", "user": "me"}, "/nowhere/password"),
        ({"password_file": "/dev/null", "user": "me"}, "empty"),
        ({"password_file": "/dev/null"}, "user"),
        ({"ca_file": "/nowhere/ca.crt"}, "mqtts://"),
        ({"url": "mqtts://host", "ca_file": "/nowhere/ca.crt"}, "/nowhere/ca.crt"),
        ({"url": "mqtts://host", "cert_file": "/dev/null"}, "cert_file"),
        ({"url": "mqtts://host", "key_file": "/dev/null"}, "cert_file"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(values: dict[str, str], word: str) -> None:
    with pytest.raises(UsageError) as caught:
        broker_address(settings(**values), {})
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
