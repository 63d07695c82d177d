"""Names of models -> backends, loaded when they are asked for, within a budget of memory."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmapps.engine.backends.about import About
from lmapps.engine.backends.backend import Backend
from lmapps.engine.backends.source import Source
from lmapps.engine.memory import give_back
from lmapps.errors import Busy, ModelInUse, ModelTooLarge, NoSuchModel, SettingsError, ShuttingDown

ModelState = Literal["loaded", "loading", "not loaded"]
CLOSED = "the server is shutting down: try again when it is back"


@dataclass(frozen=True)
class Description:
    """One model as a person sees it in a list."""

    name: str
    place: str
    """The folder that it comes from."""
    state: ModelState
    about: About
    """What it is, while it is loaded."""
    context: int | None
    """The longest prompt and reply together, in tokens, while it is loaded."""
    bytes: int
    """Memory that it takes now."""
    users: int
    """How many requests hold it."""


class _Entry:
    """A model that was asked for at least once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.backend: Backend | None = None
        self.opening: Future[Backend] | None = None
        self.users = 0
        self.used = 0
        """Counts up: the one with the smallest number was not used for longest."""
        self.bytes = 0
        """What it takes, or will."""


class Models:
    """The models that this process serves. Safe from any thread; loading has threads of its own.

    given  those that were named; the first is the default
    open   a source -> its backend; slow, and may raise
    needs  a source -> the memory it will take, in bytes; may raise
    budget memory that all loaded models together may take, in bytes
    find   more models that may be asked for by name, as they are at that moment
    """

    def __init__(
        self,
        given: Iterable[Source],
        open: Callable[[Source], Backend],
        needs: Callable[[Source], int] = lambda _: 0,
        budget: float = float("inf"),
        find: Callable[[], dict[str, Source]] = dict,
    ) -> None:
        self._open, self._needs, self.budget, self._find = open, needs, budget, find
        self._given: dict[str, Source] = {}
        self._entries: dict[str, _Entry] = {}
        self._turn = threading.RLock()
        self._clock = itertools.count(1)
        self._closed = False
        for source in given:
            if source.name in self._given:
                raise SettingsError(
                    f"two models are called {source.name!r}: name one of them, NAME={source.place}"
                )
            self._given[source.name] = source
        self.default = next(iter(self._given))
        """The model of whoever names none."""

    @classmethod
    def of(cls, backend: Backend) -> Models:
        """Just one, which is open already; it is not opened again once it was freed."""
        models = cls([Source(backend.name, str(backend.folder or ""))], lambda _: backend)
        models.load()
        return models

    @property
    def names(self) -> list[str]:
        """Every model that may be asked for, the default first."""
        return list(self._sources())

    def known(self, name: str) -> str:
        """The name. Raises `NoSuchModel` where there is no model of that name."""
        return self._source(name).name

    def folder(self, name: str) -> Path | None:
        """A model's checkpoint folder, where it is one."""
        return self._source(name).folder

    def why_not_ready(self) -> str | None:
        """Why a request to the default model would be refused now; None where it would not."""
        with self._turn:
            entry = self._entry(self.default)
            if self._closed:
                return CLOSED
            if entry.opening:
                return f"the model {self.default!r} is being loaded: try again in a moment"
            return entry.backend.why_not_ready() if entry.backend else None

    def describe(self) -> list[Description]:
        """Every model, the default first."""
        with self._turn:
            return [self._description(source) for source in self._sources().values()]

    @asynccontextmanager
    async def use(self, name: str | None = None) -> AsyncIterator[Backend]:
        """The model of that name, loaded where it is not; it stays while it is in use.

        Raises `NoSuchModel`, `ModelTooLarge`, `Busy` where others are in use and take the memory,
        and `CheckpointError` where it cannot be loaded.
        """
        with self._held(name) as opening:
            coming = asyncio.wrap_future(opening)
            coming.add_done_callback(lambda done: done.cancelled() or done.exception())
            yield await asyncio.shield(coming)  # who leaves does not end it for the others

    def load(self, name: str | None = None) -> Backend:
        """The same for code that is not asynchronous, without holding it."""
        with self._held(name) as opening:
            return opening.result()

    def free(self, name: str) -> None:
        """Give a model's memory back. Raises `ModelInUse` where it is answering somebody."""
        with self._turn:
            entry = self._entry(name)
            if entry.users or entry.opening:
                raise ModelInUse(f"the model {name!r} is in use: try again when it has answered")
            leaving = self._let_go(entry)
        _close(leaving)

    def add(self, source: Source) -> None:
        """Offer one more. Raises `SettingsError` where there is another one of its name."""
        with self._turn:
            known = self._sources().get(source.name)
            if known and known.place != source.place:
                raise SettingsError(f"there is a model {source.name!r} already: choose another")
            self._given[source.name] = source

    def refuse(self) -> None:
        """Take nothing new. What is under way goes on, until `close`."""
        self._closed = True

    def close(self) -> None:
        """End what is under way on every model."""
        with self._turn:
            self._closed = True
            leaving = [one for entry in self._entries.values() for one in self._let_go(entry)]
        _close(leaving)

    @property
    def loaded(self) -> list[Backend]:
        """Those that are in memory now."""
        with self._turn:
            return [entry.backend for entry in self._entries.values() if entry.backend]

    def _sources(self) -> dict[str, Source]:
        return {**self._given, **{n: s for n, s in self._find().items() if n not in self._given}}

    def _description(self, source: Source) -> Description:
        entry = self._entries.get(source.name) or _Entry(source)
        state: ModelState = "loaded" if entry.backend else "not loaded"
        return Description(
            source.name,
            source.place,
            "loading" if entry.opening else state,
            entry.backend.about if entry.backend else About(),
            entry.backend.context if entry.backend else None,
            entry.backend.bytes if entry.backend else 0,
            entry.users,
        )

    def _source(self, name: str) -> Source:
        sources = self._sources()
        if name not in sources:
            known = ", ".join(map(repr, sources))
            raise NoSuchModel(f"there is no model {name[:200]!r} here; served: {known}")
        return sources[name]

    def _entry(self, name: str) -> _Entry:
        source = self._source(name)
        return self._entries.setdefault(name, _Entry(source))

    @contextmanager
    def _held(self, name: str | None) -> Iterator[Future[Backend]]:
        """The model, or its loading; meanwhile nobody frees it."""
        with self._turn:
            entry = self._entry(self.default if name is None else name)
            entry.users += 1
            entry.used = next(self._clock)
            try:
                opening = self._opening(entry)
            except BaseException:
                entry.users -= 1
                raise
        try:
            yield opening
        finally:
            with self._turn:
                entry.users -= 1

    def _opening(self, entry: _Entry) -> Future[Backend]:
        """The model's loading, begun where nobody has."""
        if self._closed:
            raise ShuttingDown(CLOSED)
        if entry.opening:
            return entry.opening
        opening: Future[Backend] = Future()
        if entry.backend:
            opening.set_result(entry.backend)
            return opening
        needed = self._needs(entry.source)
        leaving = self._make_room(entry, needed)
        entry.opening, entry.bytes = opening, needed
        threading.Thread(
            target=self._load, args=[entry, opening, leaving], daemon=True,
            name=f"loading {entry.source.name}",
        ).start()  # fmt: skip
        return opening

    def _load(self, entry: _Entry, opening: Future[Backend], leaving: list[Backend]) -> None:
        """In a thread of its own: whoever waits for it is told how it ended."""
        backend, failure = None, None
        try:
            _close(leaving)
            backend = self._open(entry.source)
        except BaseException as error:
            failure = error
        with self._turn:
            is_late = self._closed
            entry.opening, entry.backend = None, None if is_late else backend
            entry.bytes = entry.backend.bytes if entry.backend else 0
        if backend and is_late:
            backend.close()
            failure = ShuttingDown(CLOSED)
        if failure or backend is None:
            opening.set_exception(failure or AssertionError("opened, or failed"))
        else:
            opening.set_result(backend)

    def _make_room(self, entry: _Entry, needed: int) -> list[Backend]:
        """Choose idle models to let go, the one that was not used for longest first."""
        name, free = entry.source.name, self.budget - needed
        if free < 0:
            raise ModelTooLarge(
                f"the model {name!r} takes about {_gigabytes(needed)}, and models may take "
                f"{_gigabytes(self.budget)}: choose a smaller one, or allow more with --memory"
            )
        others = [other for other in self._entries.values() if other is not entry]
        taken = sum(other.bytes for other in others)
        idle = [other for other in others if other.backend and not other.users]
        leaving = []
        for other in sorted(idle, key=lambda other: other.used):
            if taken <= free:
                break
            taken -= other.bytes
            leaving.append(other)
        if taken > free:
            busy = ", ".join(repr(o.source.name) for o in others if o.users or o.opening)
            raise Busy(
                f"there is no memory for the model {name!r} now, {busy} being in use: try again "
                "in a moment, or allow more with --memory", 5,
            )  # fmt: skip
        return [backend for other in leaving for backend in self._let_go(other)]

    def _let_go(self, entry: _Entry) -> list[Backend]:
        leaving = [entry.backend] if entry.backend else []
        entry.backend, entry.bytes = None, 0
        return leaving


def _close(leaving: list[Backend]) -> None:
    """End them, and give their memory back: nobody else has them any more."""
    while leaving:
        leaving.pop().close()
        give_back()


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
