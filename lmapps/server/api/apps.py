"""HTTP requests -> plugins -> JSON or server-sent events: `/apps` and `/apps/<plugin>`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from lmapps.discovery import Found
from lmapps.engine.application import Asked, Done, Event, Notice
from lmapps.engine.asking import events_on
from lmapps.engine.compiling import settings_in_time
from lmapps.engine.models import Models
from lmapps.errors import InputError
from lmapps.plugin import Plugin
from lmapps.server.api.bodies import DECODING
from lmapps.server.api.connection import Events, started, while_connected
from lmapps.server.api.protocol import NotFound, flag_of, model_of, read_json
from lmapps.server.who import who


def app_routes(found: Found, models: Models) -> APIRouter:
    """One POST route for every plugin that is there when it is asked, and a list of all."""
    routes = APIRouter(prefix="/apps")

    @routes.get("")
    async def apps() -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "title": plugin.title,
                "help": plugin.help,
                "form": plugin.input_schema(),
                "reply": plugin.reply_form.schema(),
            }
            for name, plugin in found.plugins.items()
        ]

    @routes.post("/{name}", include_in_schema=False)
    async def run(name: str, request: Request) -> Response:
        if name not in found.plugins:
            known = ", ".join(sorted(found.plugins)) or "none"
            raise NotFound(f"there is no plugin {name!r}; known: {known}")
        plugin = found.plugins[name]
        values = await read_json(request)
        streams = flag_of(values, "stream")
        changes = {} if values.get("decoding") is None else values["decoding"]
        if not isinstance(changes, dict):
            raise InputError(f"decoding must be an object of settings, got {changes!r}")
        user, read = who(request).turns, partial(plugin.decoding.replace, **changes)
        decoding = await settings_in_time(read, changes, user)
        fields = {k: v for k, v in values.items() if k not in ("stream", "decoding", "model")}
        model = model_of(values)
        events = events_on(models, model, plugin, fields, decoding, user)
        if not streams:
            return JSONResponse(await while_connected(request, _whole(events)))
        first = await while_connected(request, started(_shown(events)))
        return Events(_objects(first))

    return routes


def described(schema: dict[str, Any], found: Found) -> dict[str, Any]:
    """The OpenAPI description with one path for each plugin that is there now."""
    paths = {
        f"/apps/{name}": {"post": _operation(plugin)} for name, plugin in found.plugins.items()
    }
    return {**schema, "paths": {**schema["paths"], **paths}}


def _operation(plugin: Plugin) -> dict[str, Any]:
    return {
        "operationId": f"run_{plugin.name}",
        "summary": plugin.help,
        "requestBody": {"content": {"application/json": {"schema": _body(plugin)}}},
        "responses": {
            "200": {
                "description": "The reply, or server-sent events that end in it",
                "content": {"application/json": {"schema": _answer(plugin)}},
            }
        },
    }


def _body(plugin: Plugin) -> dict[str, Any]:
    """The form's schema, and what every plugin takes besides."""
    schema = plugin.input_schema()
    schema["properties"] |= {
        "stream": {"type": "boolean", "default": False},
        "decoding": DECODING,
        "model": {"type": "string", "description": "one of /v1/models; may be left out"},
    }
    return schema


def _answer(plugin: Plugin) -> dict[str, Any]:
    """The schema of what comes back."""
    count = {"type": "integer", "minimum": 0}
    properties = {
        "reply": {"type": "string", "description": "as the model wrote it, tidied"},
        "value": {**plugin.reply_form.schema(), "description": "what the reply is worth"},
        "finish": {"type": "string", "enum": ["stop", "length"]},
        "prompt_tokens": count,
        "completion_tokens": count,
        "notices": {"type": "array", "items": {"type": "string"}},
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


async def _whole(events: AsyncGenerator[Event, None]) -> dict[str, Any]:
    notices = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Notice):
                notices.append(event.text)
            if isinstance(event, Done):
                return {**asdict(event), "notices": notices}
    raise AssertionError("events end in Done")


async def _shown(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Without what is asked: a person's form is answered, not the plugin's work on it."""
    async with aclosing(events):
        async for event in events:
            if not isinstance(event, Asked):
                yield event


async def _objects(
    events: AsyncGenerator[Event, None],
) -> AsyncGenerator[dict[str, Any] | str, None]:
    """Events as objects with their name under "event"."""
    async with aclosing(events):
        async for event in events:
            yield {"event": type(event).__name__.lower(), **asdict(event)}
