"""Names of models -> backends, loaded when they are asked for, within a budget of memory."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from lmapps.engine.backends.backend import Backend
from lmapps.engine.backends.source import Source
from lmapps.engine.entry import Description, Entry
from lmapps.engine.room import who_leaves
from lmapps.errors import (
    Busy,
    LmappsError,
    ModelInUse,
    NoSuchModel,
    SettingsError,
    ShuttingDown,
)
from lmapps.memory import give_back


class Models:
    """The models that this process serves. Safe from any thread; loading has threads of its own.

    given  those that were named; the first is the default
    open   a source -> its backend; slow, and may raise
    needs  a source -> the memory it will take, in bytes; may raise
    budget memory that all loaded models together may take, in bytes
    find   more models that may be asked for by name, as they are at that moment
    fetch  brings a source's files here, before it is known what it needs; slow, and may raise
    """

    def __init__(
        self,
        given: Iterable[Source],
        open: Callable[[Source], Backend],
        needs: Callable[[Source], int] = lambda _: 0,
        budget: float = float("inf"),
        find: Callable[[], dict[str, Source]] = dict,
        fetch: Callable[[Source], None] = lambda _: None,
    ) -> None:
        self._open, self._needs, self.budget, self._find = open, needs, budget, find
        self._fetch = fetch
        self._given: dict[str, Source] = {}
        self._entries: dict[str, Entry] = {}
        self._turn = threading.RLock()
        self._closing = threading.Lock()
        self._leaving: list[Backend] = []
        """Nobody has them any more, but their memory is not given back yet."""
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
    def uses_hub(self) -> bool:
        """Whether one of those that were named is, or will be, downloaded from the Hub."""
        return any(source.is_hub for source in self._given.values())

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
                return ShuttingDown.told
            if entry.opening:
                return f"the model {self.default!r} is being loaded: try again in a moment"
            if entry.is_hopeless:
                return str(entry.given_up)
            return entry.backend.why_not_ready() if entry.backend else None

    def describe(self) -> list[Description]:
        """Every model, the default first."""
        with self._turn:
            sources = self._sources().values()
            return [(self._entries.get(s.name) or Entry(s)).describe() for s in sources]

    @asynccontextmanager
    async def use(self, name: str | None = None) -> AsyncIterator[Backend]:
        """The model of that name, loaded where it is not; it stays while it is in use.

        Raises `NoSuchModel`, `ModelTooLarge`, `Busy` where others are in use and take the memory,
        and `CheckpointError` where it cannot be loaded.
        """
        with self._held(name) as opening:
            if opening.done():  # without waiting for the event loop's next rounds
                yield opening.result()
                return
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
                raise ModelInUse(
                    "the model {name!r} is in use: try again when it has answered", name=name
                )
            self._let_go(entry)
            entry.forgive()
        self._close_leaving()

    def mend(self) -> None:
        """Start every engine again that has ended by itself; whoever waited for it is told. Whoever
        runs a server calls it about every second."""
        with self._turn:
            entries = [] if self._closed else list(self._entries.values())
            dead = [entry for entry in entries if entry.backend and entry.backend.broken]
            for entry in dead:
                assert entry.backend is not None
                entry.died(entry.backend.broken or "")
                self._let_go(entry)
        if dead:
            self._close_leaving()
        with self._turn:
            for entry in entries:
                if entry.waits and not self._closed:
                    try:
                        self._opening(entry)
                    except LmappsError as error:
                        entry.died(str(error))

    @property
    def hopeless(self) -> str | None:
        """Why the default model cannot be started again; None where it goes on."""
        entry = self._entries.get(self.default)
        return str(entry.given_up) if entry and entry.is_hopeless else None

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
            for entry in self._entries.values():
                self._let_go(entry)
        self._close_leaving()

    @property
    def loaded(self) -> list[Backend]:
        """Those that are in memory now."""
        with self._turn:
            return [entry.backend for entry in self._entries.values() if entry.backend]

    def _sources(self) -> dict[str, Source]:
        return {**self._given, **{n: s for n, s in self._find().items() if n not in self._given}}

    def _source(self, name: str) -> Source:
        sources = self._sources()
        if name not in sources:
            known = ", ".join(map(repr, sources))
            raise NoSuchModel(
                "there is no model {name!r} here; served: {known}", name=name[:200], known=known
            )
        return sources[name]

    def _entry(self, name: str) -> Entry:
        source = self._source(name)
        return self._entries.setdefault(name, Entry(source))

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

    def _opening(self, entry: Entry) -> Future[Backend]:
        """The model's loading, begun where nobody has."""
        if self._closed:
            raise ShuttingDown()
        if entry.opening:
            return entry.opening
        opening: Future[Backend] = Future()
        if entry.backend:
            opening.set_result(entry.backend)
            return opening
        if entry.is_hopeless:
            raise entry.given_up
        needed = self._needs(entry.source)
        who_leaves(entry, needed, self._entries.values(), self.budget)  # else it is refused now
        name = entry.source.name
        loading = threading.Thread(
            target=self._load, args=[entry, opening], daemon=True, name=f"loading {name}"
        )
        try:
            loading.start()  # it waits for our turn to be over
        except RuntimeError as error:  # the system has no thread for it
            raise Busy(
                "the model {name!r} cannot be loaded now: {error}", 5, name=name, error=error
            ) from None
        entry.opening, entry.bytes = opening, needed
        return opening

    def _load(self, entry: Entry, opening: Future[Backend]) -> None:
        """In a thread of its own: whoever waits for it is told how it ended."""
        backend, failure = None, None
        with self._turn:
            pass  # what there is to know of it is written down now
        try:
            self._fetch(entry.source)
            self._make_room(entry, self._needs(entry.source))
            backend = self._open(entry.source)
            self._make_room(entry, backend.bytes)
        except BaseException as error:
            failure = error
        with self._turn:
            is_refused = self._closed or failure is not None
            entry.opening, entry.backend = None, None if is_refused else backend
            entry.bytes = entry.backend.bytes if entry.backend else 0
            entry.came(failure)
        if backend and is_refused:
            backend.close()
            failure = failure or ShuttingDown()
        if failure or backend is None:
            opening.set_exception(failure or AssertionError("opened, or failed"))
        else:
            opening.set_result(backend)

    def _make_room(self, entry: Entry, needed: int) -> None:
        """Once more is known of it: others leave, or it is refused."""
        with self._turn:
            leaving = who_leaves(entry, needed, self._entries.values(), self.budget)
            entry.bytes = needed
            for other in leaving:
                self._let_go(other)
        self._close_leaving()

    def _let_go(self, entry: Entry) -> None:
        if entry.backend:
            self._leaving.append(entry.backend)
        entry.backend, entry.bytes = None, 0

    def _close_leaving(self) -> None:
        """Give back the memory of all that were let go, whoever did it: afterwards what the others
        take is all that is taken."""
        with self._closing:
            while self._leaving:
                self._leaving.pop().close()
                give_back()
