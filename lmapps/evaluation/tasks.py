"""A plugin, an engine and held-out examples -> the plugin's own metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from lmapps.decoding import Decoding
from lmapps.engine.application import Application
from lmapps.engine.engine import Engine
from lmapps.errors import PluginError, PromptTooLong, ReplyError
from lmapps.plugin import Example, Plugin

SIDE_BY_SIDE = 16


def score(
    plugin: Plugin, engine: Engine, examples: Sequence[Example], limit: int = 50
) -> dict[str, Any]:
    """The mean of each metric over the first `limit` examples, answered greedily.

    `skipped` counts examples whose prompt does not fit the model's context. Raises `PluginError`
    where the plugin has no metric.
    """
    if not plugin.metrics:
        raise PluginError(f"plugin {plugin.name!r} has no metric: add one with @metric")
    decoding = plugin.decoding.replace(temperature=0.0)
    replies = asyncio.run(_replies(plugin, engine, examples[:limit], decoding))
    scores = [
        plugin.scores(reply, example)
        for example, reply in zip(examples, replies, strict=False)
        if reply is not None
    ]
    means = {
        name: sum(values[name] for values in scores) / len(scores) if scores else None
        for name in plugin.metrics
    }
    return {"examples": len(scores), "skipped": len(replies) - len(scores), **means}


async def _replies(
    plugin: Plugin, engine: Engine, examples: Sequence[Example], decoding: Decoding
) -> list[str | None]:
    application = Application(plugin, engine)
    turns = asyncio.Semaphore(SIDE_BY_SIDE)

    async def reply(example: Example) -> str | None:
        async with turns:
            try:
                return (await application.reply(example.fields, decoding)).reply
            except PromptTooLong:
                return None
            except ReplyError:
                return ""  # which has not the form either, and scores nothing

    return list(await asyncio.gather(*map(reply, examples)))
