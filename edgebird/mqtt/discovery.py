"""What Home Assistant is told, so that a camera appears there by itself. Pure functions.

One message for each camera, at ``<prefix>/device/edgebird-<device>/<camera>/config``: a device with
all its entities. So the processes of several cameras never write the same message, and a camera
that is gone is removed by one empty message.

Entities without a list of availability stand for themselves: the fault sensor reads the topic that
the last will writes, the diagnostics expire when no health arrives, and what was seen last stays.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgebird.mqtt.topics import Topics

Payload = dict[str, Any]

# Health comes each 30 s; three of them may be lost.
_EXPIRE_S = 120


def discovery_payload(topics: Topics, *, version: str) -> Payload:
    """The message for one camera.

    Args:
        topics: the camera's.
        version: of edgebird.
    """
    available = {"availability": [{"topic": topics.status}]}
    components: dict[str, Payload] = {
        "bird": {
            "platform": "binary_sensor",
            "name": "Bird",
            "device_class": "occupancy",
            "state_topic": topics.bird,
            **available,
        },
        "count": {
            "platform": "sensor",
            "name": "Birds in view",
            "icon": "mdi:bird",
            "state_class": "measurement",
            "state_topic": topics.count,
            **available,
        },
        "visits_today": {
            "platform": "sensor",
            "name": "Visits today",
            "icon": "mdi:counter",
            "state_class": "total_increasing",
            "state_topic": topics.visits_today,
        },
        "visit": {
            "platform": "event",
            "name": "Visit",
            "icon": "mdi:bird",
            "event_types": ["start", "end"],
            "state_topic": topics.visit,
            "qos": 1,
        },
        "best": {
            "platform": "image",
            "name": "Best shot",
            "content_type": "image/jpeg",
            "image_topic": topics.best,
        },
        "snapshot_picture": {
            "platform": "image",
            "name": "Snapshot",
            "content_type": "image/jpeg",
            "image_topic": topics.snapshot_picture,
        },
        "fault": {
            "platform": "binary_sensor",
            "name": "Camera fault",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": topics.status,
            "payload_on": "offline",
            "payload_off": "online",
            "json_attributes_topic": topics.health,
            "json_attributes_template": (
                "{{ {'faults': value_json.faults, 'last_error': value_json.last_error} | tojson }}"
            ),
        },
        "enabled": {
            "platform": "switch",
            "name": "Detection",
            "icon": "mdi:eye",
            "entity_category": "config",
            "state_topic": topics.value("enabled"),
            "command_topic": topics.command("enabled"),
            **available,
        },
        "threshold": {
            "platform": "number",
            "name": "Threshold",
            "icon": "mdi:tune",
            "entity_category": "config",
            # all that settings may hold: Home Assistant shows no value outside
            "min": 0,
            "max": 1,
            "step": 0.01,
            "mode": "slider",
            "state_topic": topics.value("threshold"),
            "command_topic": topics.command("threshold"),
            **available,
        },
        "snapshot": {
            "platform": "button",
            "name": "Take a snapshot",
            "icon": "mdi:camera",
            "command_topic": topics.command("snapshot"),
            "payload_press": "PRESS",
            **available,
        },
        "inference": _diagnostic(
            topics, "Inference time", "inference_ms", device_class="duration", unit="ms"
        ),
        "frame_age": _diagnostic(
            topics, "Frame age", "frame_age_s", device_class="duration", unit="s"
        ),
        "temperature": _diagnostic(
            topics, "Temperature", "temperature_c", device_class="temperature", unit="°C"
        ),
        "disk": _diagnostic(
            topics, "Disk used", "disk_used_mb", device_class="data_size", unit="MB"
        ),
        "outbox": _diagnostic(topics, "Alerts waiting", "outbox.waiting", icon="mdi:tray-full"),
    }
    for name, component in components.items():
        entity = f"{topics.device}_{topics.camera}_{name}".replace("-", "_")
        component["unique_id"] = f"{topics.base}/{name}"
        component["default_entity_id"] = f"{component['platform']}.edgebird_{entity}"
    return {
        "device": {
            "identifiers": [topics.base],
            "name": f"edgebird {topics.device} {topics.camera}",
            "manufacturer": "edgebird",
            "model": "bird-feeder camera",
            "sw_version": version,
        },
        "origin": {"name": "edgebird", "sw_version": version},
        "components": components,
    }


def with_removals(payload: Payload, before: bytes | None) -> Payload:
    """The message that also takes away what an earlier one had and this one has not.

    Home Assistant removes a component that is there with its platform and nothing else.

    Args:
        payload: as it shall be in the end.
        before: what is retained now, None if nothing is; anything that is no message counts as
            nothing.
    """
    try:
        earlier = msgspec.json.decode(before or b"", type=_Earlier)
    except (msgspec.DecodeError, RecursionError):
        return payload
    gone = {
        name: {"platform": component["platform"]}
        for name, component in earlier.components.items()
        if len(component) > 1
        and isinstance(component.get("platform"), str)
        # An entity cannot change its platform; the old one goes and the new one comes.
        and component["platform"] != payload["components"].get(name, {}).get("platform")
    }
    return payload | {"components": payload["components"] | gone} if gone else payload


class _Earlier(msgspec.Struct):
    components: dict[str, dict[str, Any]]


def _diagnostic(
    topics: Topics,
    name: str,
    path: str,
    *,
    device_class: str | None = None,
    unit: str | None = None,
    icon: str | None = None,
) -> Payload:
    optional = {"device_class": device_class, "unit_of_measurement": unit, "icon": icon}
    return {
        "platform": "sensor",
        "name": name,
        "entity_category": "diagnostic",
        "state_class": "measurement",
        "state_topic": topics.health,
        "value_template": f"{{{{ value_json.{path} }}}}",
        "expire_after": _EXPIRE_S,
        **{key: value for key, value in optional.items() if value is not None},
    }
