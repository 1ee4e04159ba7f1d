"""An MQTT broker inside this process, for the demo and for trying things out."""

from __future__ import annotations

import asyncio
import logging
import socket
from concurrent.futures import Future
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edgebird.errors import BrokerError

if TYPE_CHECKING:
    from amqtt.broker import Broker

HOST = "127.0.0.1"
START_TRIES = 3
SHUTDOWN_S = 15.0

logger = logging.getLogger(__name__)


class EmbeddedBroker:
    """Runs a broker on a free port of the loopback interface while its ``with`` block runs.

    Anyone on this machine may connect; nothing is kept when it stops.

    Attributes:
        url: where clients reach it, ``mqtt://127.0.0.1:<port>``; set inside the block.

    Raises:
        BrokerError: on entry, when the package behind it is not installed or does not start.
    """

    url: str

    def __init__(self) -> None:
        self._started: Future[int] = Future()
        self._thread = Thread(target=lambda: asyncio.run(self._serve()), name="broker", daemon=True)

    def __enter__(self) -> Self:
        # They tell of every client and packet, and of a failed start with a traceback.
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self._thread.start()
        self.url = f"mqtt://{HOST}:{self._started.result()}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda loop, context: logger.debug("%s", context))
        self._stop = asyncio.Event()
        try:
            broker, port = await _start_on_free_port()
        except Exception as error:  # noqa: BLE001  (the thread that waits shall have it)
            self._started.set_exception(error)
            return
        self._started.set_result(port)
        await self._stop.wait()
        try:
            await asyncio.wait_for(broker.shutdown(), SHUTDOWN_S)
        except (TimeoutError, asyncio.CancelledError) as error:
            # a client that does not hang up, or does in mid-message; leaving the loop ends it
            logger.debug("the embedded broker did not stop in order: %r", error)


async def _start_on_free_port() -> tuple[Broker, int]:
    try:
        from amqtt.broker import Broker
        from amqtt.errors import AMQTTError
    except ImportError as error:
        raise BrokerError(
            "the demo needs a broker of its own: use `make run` in the project's folder, or "
            "`edgebird detect --source demo:`"
        ) from error
    problem: AMQTTError | None = None
    for _ in range(START_TRIES):  # another process may take the port in between
        with socket.create_server((HOST, 0)) as free:
            port: int = free.getsockname()[1]
        broker = Broker(
            {
                "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}},
                "plugins": {
                    "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
                },
            }
        )
        try:
            await broker.start()
        except AMQTTError as error:
            problem = error
        else:
            return broker, port
    raise BrokerError(f"the embedded MQTT broker does not start: {problem}") from problem
