"""HTTP requests -> plugins -> JSON or server-sent events: `/apps` and `/apps/<plugin>`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from lmapps.discovery import Found
from lmapps.engine.application import Application, Done, Event, Notice
from lmapps.engine.engine import Engine
from lmapps.errors import InputError
from lmapps.plugin import Plugin
from lmapps.server.api import started, stream_response, while_connected
from lmapps.server.bodies import DECODING
from lmapps.server.protocol import NotFound, flag_of, read_json, user_of


def app_routes(found: Found, engine: Engine) -> APIRouter:
    """One POST route a plugin, with the schema of its form, and a list of all."""
    routes = APIRouter(prefix="/apps")

    @routes.get("")
    async def apps() -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "title": plugin.title,
                "help": plugin.help,
                "form": plugin.input_schema(),
            }
            for name, plugin in found.plugins.items()
        ]

    for plugin in found.plugins.values():
        _add(routes, plugin, engine)

    @routes.post("/{name}", include_in_schema=False)
    async def unknown(name: str) -> None:
        known = ", ".join(sorted(found.plugins)) or "none"
        raise NotFound(f"there is no plugin {name!r}; known: {known}")

    return routes


def _add(routes: APIRouter, plugin: Plugin, engine: Engine) -> None:
    async def run(request: Request) -> Response:
        values = await read_json(request)
        streams = flag_of(values, "stream")
        changes = values.get("decoding") or {}
        if not isinstance(changes, dict):
            raise InputError(f"decoding must be an object of settings, got {changes!r}")
        decoding = plugin.decoding.replace(**changes)
        fields = {k: v for k, v in values.items() if k not in ("stream", "decoding")}
        events = Application(plugin, engine, user_of(request, {})).events(fields, decoding)
        if not streams:
            return JSONResponse(await while_connected(request, _whole(events)))
        return stream_response(_objects(await started(events)))

    routes.add_api_route(
        f"/{plugin.name}",
        run,
        methods=["POST"],
        operation_id=f"run_{plugin.name}",
        summary=plugin.help,
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": _body(plugin)}}}},
    )


def _body(plugin: Plugin) -> dict[str, Any]:
    """The form's schema, and what every plugin takes besides."""
    schema = plugin.input_schema()
    schema["properties"] |= {
        "stream": {"type": "boolean", "default": False},
        "decoding": DECODING,
    }
    return schema


async def _whole(events: AsyncGenerator[Event, None]) -> dict[str, Any]:
    notices = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Notice):
                notices.append(event.text)
            if isinstance(event, Done):
                return {**asdict(event), "notices": notices}
    raise AssertionError("events end in Done")


async def _objects(events: AsyncGenerator[Event, None]) -> AsyncIterator[dict[str, Any]]:
    """Events as objects with their name under "event"."""
    async with aclosing(events):
        async for event in events:
            yield {"event": type(event).__name__.lower(), **asdict(event)}
