"""What a Raspberry Pi's firmware says of its power supply and its clock."""

from __future__ import annotations

from edgebird.doctor.machine import Machine

# "soc" up to the Pi 4, "soc@107c000000" on the Pi 5; some kernels do not have it.
_THROTTLED = "/sys/devices/platform/soc*/soc*:firmware/get_throttled"

# Bits 0 to 3 are now, 16 to 19 since it was started.
_MEANINGS = {
    0: "under-voltage now",
    1: "clock limited now",
    2: "slowed down now",
    3: "hot now",
    16: "under-voltage since start",
    17: "clock limited since start",
    18: "slowed down since start",
    19: "hot since start",
}
NOW = 0xF


def throttled_bits(machine: Machine) -> int | None:
    """The firmware's word on it; None where there is no such firmware."""
    word = next(filter(None, map(machine.text, machine.found(_THROTTLED))), None)
    if word is None and (answer := machine.run(["vcgencmd", "get_throttled"])) is not None:
        word = answer.output.strip().removeprefix("throttled=")
    try:
        return int(word or "", 16)
    except ValueError:
        return None


def throttled_words(bits: int | None) -> list[str]:
    """What the bits mean, in words; empty when all is well."""
    return [text for bit, text in _MEANINGS.items() if (bits or 0) >> bit & 1]
