"""From a frame's capture to the alert at a subscriber; ``python tests/drill_latency.py --help``.

The drawn feeder plays in real time at 10 frames a second, the whole program looks at it, a real
broker passes the alerts on. What is measured is the time from the capture of the first frame in
which a bird was found to the arrival of the alert, the confirmation by a second frame included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import median

from conftest import Mosquitto


def latencies_s(broker: Mosquitto, seconds: float) -> list[float]:
    """One for each visit that the drawn feeder has in this time."""
    host, port = broker.address.host, str(broker.address.port)
    topic = "edgebird/latency/+/visit"
    listen = ["mosquitto_sub", "-h", host, "-p", port, "-q", "1", "-t", topic]
    source = f"demo:?seconds={seconds}&fps=10"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "edgebird.toml"
        config.write_text(f'[mqtt]\ndevice = "latency"\nurl = "mqtt://{host}:{port}"\n')
        watch = [sys.executable, "-m", "edgebird.cli", "detect", "--source", source]
        with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as subscriber:
            assert subscriber.stdout is not None
            detect = subprocess.Popen(
                [*watch, "--config", str(config)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            found = []
            ended = 0
            # the visit that goes on at the end is ended with the program
            while detect.poll() is None or ended < len(found):
                line = subscriber.stdout.readline()
                now_s = time.time()
                alert = json.loads(line)
                if alert["event_type"] == "start":
                    started = datetime.fromisoformat(alert["started"]).timestamp()
                    found.append(now_s - started)
                else:
                    ended += 1
                if len(found) == ended and detect.poll() is None and len(found) >= seconds // 9:
                    break
            detect.wait(30)
            subscriber.terminate()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=270.0, help="a visit comes every 9 s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder) / "mosquitto", "allow_anonymous true")
        broker.start()
        try:
            found = sorted(latencies_s(broker, options.seconds))
        finally:
            broker.stop()
    median_s = median(found)
    sys.stdout.write(
        f"{len(found)} visits: capture to alert, confirmation included: median {median_s:.3f} s, "
        f"95 % {found[int(0.95 * (len(found) - 1))]:.3f} s, longest {found[-1]:.3f} s\n"
    )
    return int(median_s >= 0.35)


if __name__ == "__main__":
    sys.exit(main())
