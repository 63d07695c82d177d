"""An application's events -> what a tab shows: the text so far and a line about its state."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, ClassVar, ParamSpec

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
from lmapps.server.page.languages import later, plugin_word, translated, word
from lmapps.server.who import who_on_page

P = ParamSpec("P")
Ask = Callable[[], AsyncGenerator[Event, None]]
Update = dict[Any, Any]
"""Components and what they show from now on."""
LOG = logging.getLogger("lmapps.server")
REFRESH_SECONDS = 0.1
"""The page is sent news at most so often, but for the first text and the end: those go at once."""
UPDATES_A_SECOND = 300
"""Where many replies are under way, all of them together have no more news than that: whoever has
just asked would wait behind them."""
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
    seconds: float
    """From the first text to the end."""


@dataclass(frozen=True)
class View:
    """What there is to see."""

    text: str = ""
    value: Any = None
    """What the whole text is worth, at the end."""
    status: str = ""
    asked: Asked | None = None
    """What the model was asked last."""
    first_token: float | None = None
    """Seconds from the request to the first text that stayed, waiting included."""
    took: Took | None = None
    """At the end."""
    done: bool = False
    failed: bool = False


def views(
    models: Models,
    plugin: Plugin,
    values: Mapping[str, Any],
    choose: Callable[[], Decoding],
    model: str | None = None,
) -> Views:
    """Ask, at once, within a request of the page's.

    model  the name of the one that is asked; None = the default
    """
    user = who_on_page().turns
    return Views(
        lambda: events_on(models, model, plugin, values, choose(), user),
        partial(plugin_word, plugin),
    )


class Views(AsyncIterator[View]):
    """Views as a reply grows, the last one `done`. An error is a view too: a sentence.

    The reply is read whether or not somebody takes the views, and who takes them gets the newest:
    at most one in `REFRESH_SECONDS`, rarer where many are under way, but for the first text and the
    end, which come at once. Closing it ends what is under way.

    say  what gives the texts of an error in the visitor's language
    """

    _under_way: ClassVar[set[asyncio.Task[None]]] = set()
    """Of everybody."""

    def __init__(self, ask: Ask, say: Callable[..., Any] = word) -> None:
        self._view = self._told = at_first()
        self._news, self._turn = asyncio.Event(), asyncio.Event()
        self._shown = 0.0
        self._task = asyncio.create_task(self._follow(ask, say))
        self._under_way.add(self._task)
        self._task.add_done_callback(self._under_way.discard)

    async def __anext__(self) -> View:
        if self._told.done:
            raise StopAsyncIteration
        await self._news.wait()
        left = self._shown + seconds_between(len(self._under_way)) - time.monotonic()
        if left > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._turn.wait()
        self._news.clear()
        self._turn.clear()
        self._told, self._shown = self._view, time.monotonic()
        return self._told

    async def aclose(self) -> None:
        """End it; the slot is free afterwards."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _follow(self, ask: Ask, say: Callable[..., Any]) -> None:
        async with aclosing(grown(ask, say)) as views:
            async for view in views:
                self._show(view)

    def _show(self, view: View) -> None:
        if view.done or bool(view.text) != bool(self._view.text):
            self._turn.set()
        self._view = view
        self._news.set()


def at_first() -> View:
    """Before its first event."""
    return View(status=word("Reading ..."))


async def grown(ask: Ask, say: Callable[..., Any] = word) -> AsyncGenerator[View, None]:
    """A view after each event, the last one `done`. An error is a view too: a sentence.

    say  a plugin's own words in the visitor's language
    """
    view, began, notice = at_first(), time.monotonic(), ""
    try:
        async with aclosing(ask()) as events:
            async for event in events:
                notice = translated(event.text) if isinstance(event, Notice) else notice
                view = _timed(view, event, time.monotonic() - began)
                view = _after(view, event, notice)
                yield view
    except Exception as error:  # a tab that is not told the end waits for it for ever
        yield replace(view, status=warning(error, say), done=True, failed=True)


def seconds_between(under_way: int) -> float:
    """Two updates of a reply, where so many are under way."""
    return max(REFRESH_SECONDS, under_way / UPDATES_A_SECOND)


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


def warning(error: Exception, say: Callable[..., Any] = word) -> str:
    """An error as a line about the state, its texts as `say` gives them; the log says more about
    one that is our mistake."""
    sentence = str(translated(error, say))
    if not isinstance(error, LmappsError):
        LOG.error("a tab could not go on", exc_info=error)
        sentence = word(
            "something went wrong in the server ({kind}): see its log", kind=type(error).__name__
        )
    return str(word("⚠ {sentence}.", sentence=f"{sentence[:1].upper()}{sentence[1:]}"))


def _timed(view: View, event: Event, seconds: float) -> View:
    """seconds  from the request to the event"""
    match event:
        case Text() if not view.text:
            return replace(view, first_token=seconds)
        case Done():
            first = seconds if view.first_token is None else view.first_token
            took = Took(view.text, event.prompt_tokens, event.completion_tokens, seconds - first)
            return replace(view, first_token=first, took=took)
    return view


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
        case Notice():
            return replace(view, status=notice)
        case Done(reply, value, finish):
            status = " ".join(part for part in (notice, word(ENDINGS.get(finish, ""))) if part)
            return replace(view, text=reply, value=value, status=status, done=True)
