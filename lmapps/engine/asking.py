"""A model's name, a plugin and what a person filled in -> events, while the model is held."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from lmapps.decoding import Decoding
from lmapps.engine.application import Application, Event
from lmapps.engine.models import Models
from lmapps.engine.turns import User
from lmapps.plugin import Plugin


async def events_on(
    models: Models,
    model: str | None,
    plugin: Plugin,
    values: Mapping[str, Any],
    decoding: Decoding | None = None,
    user: User = None,
) -> AsyncGenerator[Event, None]:
    """Run a plugin on the model of that name; None = the default. It stays until the last event.

    Raises what `Models.use` and `Application.events` raise.
    """
    async with models.use(model) as backend:
        events = Application(plugin, backend, user).events(values, decoding)
        async with aclosing(events):
            async for event in events:
                yield event
