"""Sinks: where events go.

A sink takes each event with ``emit`` and never blocks the loop nor raises for an outage.
"""

from __future__ import annotations

from typing import Protocol

from edgebird.structures import Event


class Sink(Protocol):
    """Takes events from the loop."""

    def emit(self, event: Event) -> None:
        """Handle one event; returns at once, and outlives a broker or disk that does not."""

    def close(self) -> None:
        """Deliver what is pending within a bounded time and let go of resources."""
