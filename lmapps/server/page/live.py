"""An application's events -> what a tab shows: the text so far and a line about its state."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, ParamSpec

from lmapps.decoding import Decoding
from lmapps.engine.application import (
    Asked,
    Clear,
    Done,
    Event,
    Notice,
    Progress,
    Reading,
    Text,
    Waiting,
)
from lmapps.engine.asking import events_on
from lmapps.engine.models import Models
from lmapps.errors import LmappsError
from lmapps.plugin import Plugin
from lmapps.server.page.languages import later, word
from lmapps.server.who import who_on_page

P = ParamSpec("P")
Update = dict[Any, Any]
"""Components and what they show from now on."""
LOG = logging.getLogger("lmapps.server")
REFRESH_SECONDS = 0.1
"""The page is sent news at most so often, but for the first text and the end: those go at once."""
ENDINGS = {
    "length": later("The reply was cut at its longest length."),
    "cancelled": later("Stopped."),
}


@dataclass(frozen=True)
class Took:
    """What a reply took."""

    written: str
    """The text as the model wrote it."""
    prompt_tokens: int
    tokens: int
    first_token: float
    """Seconds from the request to the first text that stayed, waiting included."""
    seconds: float
    """From there to the end."""


@dataclass(frozen=True)
class View:
    """What there is to see."""

    text: str = ""
    value: Any = None
    """What the whole text is worth, at the end."""
    status: str = ""
    asked: Asked | None = None
    """What the model was asked last."""
    took: Took | None = None
    """At the end."""
    done: bool = False
    failed: bool = False


async def views(
    models: Models,
    plugin: Plugin,
    values: Mapping[str, Any],
    choose: Callable[[], Decoding],
    model: str | None = None,
) -> AsyncGenerator[View, None]:
    """Views as the reply grows, the last one `done`. An error is a view too: a sentence.

    model  the name of the one that is asked; None = the default
    """
    view, notice, shown = View(status=word("Reading ...")), "", 0.0
    began, first = time.monotonic(), 0.0
    yield view
    told = view
    try:
        mine = events_on(models, model, plugin, values, choose(), who_on_page().turns)
        async with aclosing(mine) as events:
            async for event in events:
                if isinstance(event, Notice):
                    notice = event.text
                if isinstance(event, Text) and not view.text:
                    first = time.monotonic()
                if isinstance(event, Done):
                    view = replace(view, took=_took(view.text, event, began, first))
                view = _after(view, event, notice)
                turns = view.done or bool(view.text) != bool(told.text)
                if turns or time.monotonic() - shown >= REFRESH_SECONDS:
                    yield view
                    told, shown = view, time.monotonic()
    except Exception as error:  # a tab that is not told the end waits for it for ever
        yield replace(view, status=warning(error), done=True, failed=True)


def too_early(owner: str) -> str:
    """What is told while the page is still finding out whose it is; '' afterwards."""
    told = word("The page is still opening: try again in a moment, or load it again.")
    return "" if owner else told


def nothing() -> None:
    """For an event that only ends others."""


def only_news(stream: Callable[P, AsyncGenerator[Update, None]]) -> Any:
    """A stream of updates without what is as it was in the one before.

    To change a property of a component Gradio makes it anew, each time, which takes milliseconds:
    where only its value is another one, the value is sent alone.
    """

    @wraps(stream)
    async def news(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Update, None]:
        before = Update()
        async with aclosing(stream(*args, **kwargs)) as updates:
            async for update in updates:
                fresh = {
                    component: _news(now, before.get(component))
                    for component, now in update.items()
                    if component not in before or before[component] != now
                }
                before |= update
                if fresh:
                    yield fresh

    return news


def _news(now: Any, was: Any) -> Any:
    """An update of a component, or its value where nothing else in it has changed."""
    if not (isinstance(now, dict) and isinstance(was, dict) and "__type__" in now):
        return now
    same = {**now, "value": None} == {**was, "value": None}
    return now["value"] if same and "value" in now else now


def warning(error: Exception) -> str:
    """An error as a line about the state; the log says more about one that is our mistake."""
    sentence = str(error)
    if not isinstance(error, LmappsError):
        LOG.error("a tab could not go on", exc_info=error)
        sentence = word(
            "something went wrong in the server ({kind}): see its log", kind=type(error).__name__
        )
    return f"⚠ {sentence[:1].upper()}{sentence[1:]}{'.' if sentence[-1:].isascii() else '。'}"


def _took(written: str, done: Done, began: float, first: float) -> Took:
    """began, first  when it was asked for, and when its first text came: seconds of one clock"""
    now = time.monotonic()
    first = first or now
    return Took(written, done.prompt_tokens, done.completion_tokens, first - began, now - first)


def _after(view: View, event: Event, notice: str) -> View:
    match event:
        case Asked():
            return replace(view, asked=event)
        case Text(text):
            return replace(view, text=view.text + text, status=notice)
        case Clear():
            return replace(view, text="", status=notice)
        case Progress(done, total):
            return replace(
                view,
                text="",
                status=word("Reading in parts: {done} of {total} done.", done=done, total=total),
            )
        case Waiting(position):
            return replace(
                view, status=word("Waiting: number {position} in the queue.", position=position)
            )
        case Reading(read, total):
            return replace(
                view,
                status=word("Reading: {read} of {total} tokens.", read=read, total=total),
            )
        case Notice(text):
            return replace(view, status=text)
        case Done(reply, value, finish):
            status = " ".join(part for part in (notice, word(ENDINGS.get(finish, ""))) if part)
            return replace(view, text=reply, value=value, status=status, done=True)
