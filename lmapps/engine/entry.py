"""One model that was asked for -> what is known of it: where it is, what it takes, how it is."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

from lmapps.engine.backends.backend import Backend
from lmapps.engine.backends.source import Source
from lmapps.errors import EngineFailed
from lmapps.sentence import Sentence

ModelState = Literal["loaded", "loading", "not loaded"]
MOST_DEATHS, DEATH_SECONDS = 3, 600.0
"""An engine that failed so often in so many seconds is not started again for now."""
TROUBLE_SECONDS = 60.0
"""How long it is told that something failed, where the next request may well go on."""


@dataclass(frozen=True)
class Description:
    """One model as a person sees it in a list."""

    name: str
    place: str
    """The folder that it comes from."""
    state: ModelState
    about: Sentence
    """What it is, while it is loaded."""
    context: int | None
    """The longest prompt and reply together, in tokens, while it is loaded."""
    bytes: int
    """Memory that it takes now."""
    users: int
    """How many requests hold it."""
    trouble: str = ""
    """What is wrong with it, as a sentence; '' = nothing."""
    is_failed: bool = False
    """Whether it answers nobody for now."""
    comes_back: bool = False
    """Whether it is then started again by itself."""


class Entry:
    """A model that was asked for at least once. Used by `Models` alone, which sees to the turns."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.backend: Backend | None = None
        self.opening: Future[Backend] | None = None
        self.users = 0
        self.used = 0
        """Counts up: the one with the smallest number was not used for longest."""
        self.bytes = 0
        """What it takes, or will."""
        self.failure = ""
        """Why its engine ended, or why it could not be loaded the last time."""
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)

    def died(self, reason: str) -> None:
        """Its engine ended by itself, or did not come back."""
        self._deaths.append(time.monotonic())
        self.failure = reason

    def came(self, failure: BaseException | None) -> None:
        """It was loaded, or could not be."""
        if failure and self._deaths and self._deaths[-1] > time.monotonic() - DEATH_SECONDS:
            self.died(str(failure))
        else:
            self.failure = str(failure or "")

    def forgive(self) -> None:
        """Somebody has freed it: what was before does not count."""
        self._deaths.clear()
        self.failure = ""

    @property
    def is_hopeless(self) -> bool:
        """Whether it failed so often that it is not started again for now."""
        is_often = len(self._deaths) == MOST_DEATHS
        return is_often and self._deaths[0] > time.monotonic() - DEATH_SECONDS

    @property
    def given_up(self) -> EngineFailed:
        """What those are told who ask for it where it `is_hopeless`."""
        return EngineFailed(
            "the model {name!r} failed {count} times within {seconds:g} seconds ({reason}): the "
            "server's log says more", name=self.source.name, count=MOST_DEATHS,
            seconds=DEATH_SECONDS, reason=self.failure,
        )  # fmt: skip

    @property
    def waits(self) -> bool:
        """Whether it should be started again."""
        return self._comes_back and self.opening is None

    @property
    def _comes_back(self) -> bool:
        """Whether it is started again, or is about to be. One that could not be loaded when
        somebody asked for it, and never ran, is not."""
        return self.backend is None and bool(self._deaths) and not self.is_hopeless

    def describe(self) -> Description:
        state: ModelState = "loaded" if self.backend else "not loaded"
        trouble, is_failed = self._trouble()
        broken = self.backend is not None and self.backend.broken is not None
        return Description(
            self.source.name,
            self.source.place,
            "loading" if self.opening else state,
            self.backend.about if self.backend else Sentence(""),
            self.backend.context if self.backend else None,
            self.backend.bytes if self.backend else 0,
            self.users,
            trouble,
            is_failed,
            broken or self._comes_back,
        )

    def _trouble(self) -> tuple[str, bool]:
        """What is wrong, and whether it answers nobody."""
        name = self.source.name
        if self.backend is None:
            if not self.failure:
                return "", False
            after = ": it is started again" if self._comes_back else ""
            return f"the model {name!r} failed ({self.failure}){after}", True
        if self.backend.broken:
            return f"the model {name!r} failed ({self.backend.broken})", True
        trouble, folder = self.backend.counts.trouble, self.source.folder
        if trouble and trouble[0] > time.monotonic() - TROUBLE_SECONDS:
            return f"the model {name!r} could not answer somebody ({trouble[1]})", False
        if folder and not (folder / "config.json").is_file():
            told = f"the files of the model {name!r} are gone: it answers from memory, and cannot "
            return told + f"be loaded again (it was at {folder})", False
        return "", False
