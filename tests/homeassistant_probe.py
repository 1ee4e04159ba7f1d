"""Runs in an environment of its own, with Home Assistant in it; see `make homeassistant`.

    python tests/homeassistant_probe.py PORT

A Home Assistant without web pages that has nothing but the MQTT integration, connected to a broker
on this machine. It reads requests as JSON lines and answers each with one:

    {"do": "dump"}                                      entities, devices and complaints so far
    {"do": "call", "domain": …, "service": …, "data": …}  a service, such as switch.turn_off
    {"do": "image", "entity": …}                        length and first bytes of an image
    {"do": "automate", "path": …, "inputs": …}            runs an automation made from a blueprint
    {"do": "told"}                                       what it has sent instead of notifications
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from homeassistant import bootstrap, config_entries, const, loader
from homeassistant.core import HomeAssistant
from homeassistant.helpers import device_registry, entity_registry
from homeassistant.setup import async_setup_component
from homeassistant.util import yaml as yaml_util


class Complaints(logging.Handler):
    """What Home Assistant warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "mqtt" in record.name or record.levelno >= logging.ERROR:
            self.lines.append(f"{record.name}: {record.getMessage()}")


async def start(folder: str, port: int) -> HomeAssistant:
    hass = HomeAssistant(folder)
    loader.async_setup(hass)
    hass.config.skip_pip = True
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await loader.async_get_custom_components(hass)
    await bootstrap.async_load_base_functionality(hass)
    for domain in ("homeassistant", "persistent_notification"):
        assert await async_setup_component(hass, domain, {})
    # Not needed for entities: the web server, and uploads of certificates.
    hass.config.components |= {"http", "file_upload"}
    hass.http = SimpleNamespace(register_view=lambda view: None)
    entry = config_entries.ConfigEntry(
        version=2,
        minor_version=1,
        domain="mqtt",
        title="MQTT",
        data={"broker": "127.0.0.1", "port": port, "protocol": "3.1.1"},
        options={"discovery": True},
        source="user",
        unique_id=None,
        discovery_keys={},
        subentries_data=None,
    )
    await hass.config_entries.async_add(entry)
    await hass.async_start()
    await hass.async_block_till_done()
    assert entry.state is config_entries.ConfigEntryState.LOADED, f"{entry.state} {entry.reason}"
    return hass


def dump(hass: HomeAssistant, complaints: Complaints) -> dict[str, Any]:
    devices = device_registry.async_get(hass).devices.values()
    entities = entity_registry.async_get(hass).entities.values()
    return {
        "version": const.__version__,
        "devices": [{"name": d.name, "ids": [list(i) for i in d.identifiers]} for d in devices],
        "entities": {
            entity.entity_id: {
                "unique_id": entity.unique_id,
                "category": entity.entity_category,
                "state": None if state is None else state.state,
                "attributes": {} if state is None else json.loads(json.dumps(
                    dict(state.attributes), default=str
                )),
            }
            for entity in entities
            for state in [hass.states.get(entity.entity_id)]
        },
        "complaints": complaints.lines,
    }


async def image(hass: HomeAssistant, entity: str) -> dict[str, Any]:
    from homeassistant.helpers.entity_component import DATA_INSTANCES

    picture = hass.data[DATA_INSTANCES]["image"].get_entity(entity)
    content = await picture.async_image() or b""
    return {"bytes": len(content), "begin": content[:3].hex(), "type": picture.content_type}


async def automate(
    hass: HomeAssistant, path: str, inputs: dict[str, Any], told: list[dict[str, Any]]
) -> dict[str, Any]:
    """The real blueprint, but for the telephone: what it would get is noted."""
    from homeassistant.components.automation.config import AUTOMATION_BLUEPRINT_SCHEMA
    from homeassistant.components.blueprint.models import Blueprint, BlueprintInputs

    content = yaml_util.parse_yaml(Path(path).read_text())
    blueprint = Blueprint(
        content, expected_domain="automation", path=path, schema=AUTOMATION_BLUEPRINT_SCHEMA
    )
    assert not blueprint.validate(), blueprint.validate()
    filled = BlueprintInputs(blueprint, {"use_blueprint": {"path": path, "input": inputs}})
    filled.validate()
    automation = filled.async_substitute()
    notify = automation["actions"][0]
    data = {"title": notify["title"], "message": notify["message"], **notify["data"]}
    automation["actions"][0] = {"event": "told", "event_data": data}
    hass.bus.async_listen("told", lambda event: told.append(dict(event.data)))
    done = await async_setup_component(hass, "automation", {"automation": [automation]})
    await hass.async_block_till_done()
    states = [state.state for state in hass.states.async_all("automation")]
    return {"done": done, "states": states, "inputs": sorted(blueprint.inputs)}


async def main() -> None:
    complaints = Complaints()
    told: list[dict[str, Any]] = []
    logging.getLogger().addHandler(complaints)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "configuration.yaml").write_text("")
        hass = await start(folder, int(sys.argv[1]))
        while line := await asyncio.to_thread(sys.stdin.readline):
            request = json.loads(line)
            answer: dict[str, Any] = {}
            if request["do"] == "dump":
                answer = dump(hass, complaints)
            elif request["do"] == "call":
                await hass.services.async_call(
                    request["domain"], request["service"], request["data"], blocking=True
                )
            elif request["do"] == "image":
                answer = await image(hass, request["entity"])
            elif request["do"] == "automate":
                answer = await automate(hass, request["path"], request["inputs"], told)
            elif request["do"] == "told":
                answer = {"told": told}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
        await hass.async_stop(force=True)


asyncio.run(main())
