"""A person on the page, without a browser: speaks the page's own protocol (Gradio's queue).

An event is asked for, and what comes of it is read from one stream, which stays open until the
server ends it, as the page's script does it; what the page itself remembers (whose it is, where it
stands) is remembered here.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

REPLY = '"role":"assistant"'
"""What an update that shows more than the question has in it."""


@dataclass
class Told:
    """What came of one event."""

    first: float = 0.0
    """Seconds to the first text of the reply; 0 = there was none."""
    seconds: float = 0.0
    updates: int = 0
    """After the first text."""
    bytes: list[int] = field(default_factory=list)
    """Of each of these updates."""


class Waiting(NamedTuple):
    """An event that was asked for."""

    event: int
    asked: float
    told: Told
    done: asyncio.Future[Told]


@dataclass
class Visit:
    """One open page.

    http    a client whose base is the server's address
    config  what the server says the page is made of: `GET /config`
    """

    http: httpx.AsyncClient
    config: dict[str, Any]
    name: str = field(default_factory=lambda: f"{random.getrandbits(128):032x}")
    session: str = field(default_factory=lambda: f"{random.getrandbits(64):016x}")
    kept: str = ""
    """Where the browser stood last time, as JSON; '' = it was never here."""

    def __post_init__(self) -> None:
        self.values = {one["id"]: one["props"].get("value") for one in self.config["components"]}
        self.labels = {one["id"]: one["props"].get("label") for one in self.config["components"]}
        self._grown = set[int]()
        """Events of which something has come already: then comes what is other than it was."""
        self._waiting, self._early = dict[str, Waiting](), dict[str, list[str]]()
        self._reading: asyncio.Task[None] | None = None
        visitor, self.place, _, _, _, self.message, *_ = self._inputs("_on_send")
        self.values[visitor] = self.name

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Visit]:
        """As long as a browser shows the page."""
        async with self.http.stream("GET", f"/gradio_api/heartbeat/{self.session}"):
            yield self

    async def arrive(self) -> None:
        """What every page asks for when it is opened."""
        self.values[self._inputs("_on_arrive")[-1]] = self.kept
        loads = [
            event["id"] for event in self.config["dependencies"]
            if event["backend_fn"] and any(how == "load" for _, how in event["targets"])
        ]  # fmt: skip
        await self.ask(*loads)

    async def send(self, text: str, longest: int, *, anew: bool = False) -> Told:
        """A message, and its reply of at most so many tokens; `anew` in a new conversation."""
        if anew:
            self.values[self.place] = ""
        self.values[self.message] = text
        for number in self._inputs("_on_send"):
            if "Longest reply" in str(self.labels[number]):
                self.values[number] = longest
        (told,) = await self.ask(self._event("_on_send")["id"])
        assert told.first, f"no reply to {text!r}"
        return told

    async def ask(self, *events: int) -> list[Told]:
        """Ask for these events at once, and wait for all that comes of them."""
        asked = [await self._asked(event, time.perf_counter()) for event in events]
        return list(await asyncio.gather(*asked))

    async def _asked(self, event: int, now: float) -> asyncio.Future[Told]:
        number = await self._join(event)
        done: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._waiting[number] = Waiting(event, now, Told(), done)
        for line in self._early.pop(number, ()):  # it came before the answer to the question
            self._hear(line)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        return done

    async def _read(self) -> None:
        """The stream of the page, until the server ends it."""
        url = f"/gradio_api/queue/data?session_hash={self.session}"
        try:
            async with self.http.stream("GET", url) as lines:
                async for line in lines.aiter_lines():
                    if line.startswith("data: ") and not self._hear(line):
                        return
        except Exception as error:
            for one in self._waiting.values():
                one.done.set_exception(error)

    def _hear(self, line: str) -> bool:
        """A message; False for the last one."""
        message = json.loads(line.removeprefix("data: "))
        number = message.get("event_id")
        if number is None:
            return message["msg"] != "close_stream"
        if number not in self._waiting:
            self._early.setdefault(number, []).append(line)
            return True
        one = self._waiting[number]
        self._take(one.event, one.told, message, line, one.asked)
        if message["msg"] == "process_completed":
            assert message["success"], message
            del self._waiting[number]
            one.done.set_result(one.told)
        return True

    def _take(
        self, event: int, told: Told, message: dict[str, Any], line: str, asked: float
    ) -> None:
        now = time.perf_counter() - asked
        if message["msg"] not in ("process_generating", "process_completed"):
            return
        told.seconds = now
        is_growing = message["msg"] == "process_generating"
        if told.first and is_growing:
            told.updates += 1
            told.bytes.append(len(line))
        if not told.first and REPLY in line:
            told.first = now
        outputs = self._by_id(event)["outputs"]
        if self.place in outputs and (is_growing or event not in self._grown):
            told_of_it = message["output"]["data"][outputs.index(self.place)]
            self._remember(told_of_it, event in self._grown)
            self._grown |= {event} if is_growing else set()
        if not is_growing:
            self._grown.discard(event)

    def _remember(self, value: Any, is_news: bool) -> None:
        """Where the page stands; `is_news`: as what is other than it was."""
        for edit, path, what in value if is_news else [("replace", [], value)]:
            if not path and isinstance(what, str):
                self.values[self.place] = (
                    self.values[self.place] if edit == "append" else ""
                ) + what

    async def _join(self, event: int) -> str:
        values = [self.values[number] for number in self._by_id(event)["inputs"]]
        body = {"data": values, "fn_index": event, "session_hash": self.session}
        answer = await self.http.post("/gradio_api/queue/join", json=body)
        answer.raise_for_status()
        return answer.json()["event_id"]

    def _by_id(self, event: int) -> dict[str, Any]:
        return next(one for one in self.config["dependencies"] if one["id"] == event)

    def _event(self, name: str) -> dict[str, Any]:
        found = (one for one in self.config["dependencies"] if one["api_name"].startswith(name))
        return next(found)

    def _inputs(self, name: str) -> list[int]:
        return self._event(name)["inputs"]
