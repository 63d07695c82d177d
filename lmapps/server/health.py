"""Models, database, disks and clock -> how each of them is, in a word and a sentence."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmapps.engine.entry import Description
from lmapps.engine.models import Models
from lmapps.paths import home
from lmapps.server.store.database import Database

State = Literal["ok", "degraded", "failed"]
"""Degraded: it goes on, and somebody should look after it. Failed: it does not do its work now."""
FRESH_SECONDS = 1.0
"""However many ask, everything is looked at so often at most."""
PATIENCE_SECONDS = 2.0
"""A database that has not answered by then does not work."""
LITTLE_BYTES, NO_BYTES = 500 * 2**20, 20 * 2**20
"""Free on a disk: with less than that it is degraded, or has failed."""
JUMP_SECONDS, DRIFT = 5.0, 0.001
"""The wall clock jumped where it went so much further than the monotonic one did, or less far; a
clock that is put right little by little drifts by a thousandth at most."""
TOLD_SECONDS = 60.0
"""How long a jump is told."""


@dataclass(frozen=True)
class Part:
    """One thing that a server needs."""

    kind: Literal["model", "database", "disk", "clock"]
    name: str
    state: State = "ok"
    reason: str = ""
    """What is wrong, as a sentence for whoever runs the server."""
    comes_back: bool = False
    """Whether the server is mending it by itself, and soon."""


class Health:
    """Looks after the parts of a server when somebody asks."""

    def __init__(self, models: Models, database: Database) -> None:
        self._models, self._database = models, database
        self._checked = threading.Event()
        self._checked.set()
        self._asked = -FRESH_SECONDS
        self._disks: Sequence[Part] = ()
        self._clock = Clock()

    async def parts(self) -> Sequence[Part]:
        """How everything is, a second ago at most. Takes as long as the database does, and two
        seconds at most."""
        now = time.monotonic()
        if now - self._asked >= FRESH_SECONDS and self._checked.is_set():
            self._asked = now
            self._checked.clear()
            threading.Thread(target=self._check, daemon=True, name="health").start()
        while not self._checked.is_set() and time.monotonic() - self._asked < PATIENCE_SECONDS:
            await asyncio.sleep(0.01)
        return [*self._of_models(), self._of_database(), *self._disks, self._clock.look()]

    def _check(self) -> None:
        """In a thread of its own: a disk or a database may not answer."""
        try:
            self._disks = _disks()
            self._database.check()
        finally:
            self._checked.set()

    def _of_models(self) -> Sequence[Part]:
        """The default one, and those that were asked for."""
        return [
            self._of_model(one)
            for one in self._models.describe()
            if one.trouble or one.state == "loaded" or one.name == self._models.default
        ]

    def _of_model(self, one: Description) -> Part:
        """Whoever asks for a folder that holds no usable model does not make the server fail."""
        is_failed = one.is_failed and (one.comes_back or one.name == self._models.default)
        state = _worst(is_failed, bool(one.trouble))
        return Part("model", one.name, state, one.trouble, one.comes_back)

    def _of_database(self) -> Part:
        trouble = self._database.trouble
        if not self._checked.is_set() and time.monotonic() - self._asked >= PATIENCE_SECONDS:
            trouble = trouble or (
                f"the database {self._database.place} has not answered for {PATIENCE_SECONDS:g} "
                "seconds"
            )
        return Part("database", "database", _worst(bool(trouble), False), trouble)


class Clock:
    """The machine's wall clock, compared with the monotonic one whenever somebody looks."""

    def __init__(self) -> None:
        self._wall, self._steady = time.time(), time.monotonic()
        self._jumped, self._seconds = -TOLD_SECONDS, 0.0

    def look(self) -> Part:
        """Degraded for a minute after a jump was seen."""
        wall, steady = time.time(), time.monotonic()
        passed = steady - self._steady
        ahead = wall - self._wall - passed
        self._wall, self._steady = wall, steady
        if abs(ahead) > JUMP_SECONDS + DRIFT * passed:
            self._jumped, self._seconds = steady, ahead
        if steady - self._jumped >= TOLD_SECONDS:
            return Part("clock", "clock")
        way = "ahead" if self._seconds > 0 else "back"
        told = (
            f"the machine's clock went {abs(self._seconds):,.0f} seconds {way} (set, or it slept)"
        )
        return Part("clock", "clock", "degraded", told)


def worst(parts: Sequence[Part]) -> State:
    """The state of the whole."""
    states = {part.state for part in parts}
    return "failed" if "failed" in states else "degraded" if "degraded" in states else "ok"


def _disks() -> Sequence[Part]:
    """The disks of the data folder, and of the folder where uploads and exports lie for a day."""
    places = {"data folder": home(), "temporary files": Path(tempfile.gettempdir())}
    return [_disk(name, place) for name, place in places.items()]


def _disk(name: str, place: Path) -> Part:
    there = next((folder for folder in (place, *place.parents) if folder.is_dir()), place)
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Part("disk", name, "failed", f"{place} cannot be used ({error.strerror})")
    state = _worst(free < NO_BYTES, free < LITTLE_BYTES)
    left = f"{free / 2**20:,.0f} MiB are left on the disk of {place}: make room"
    return Part("disk", name, state, left if state != "ok" else "")


def _worst(is_failed: bool, is_degraded: bool) -> State:
    return "failed" if is_failed else "degraded" if is_degraded else "ok"
