"""SIGHUP -> the settings are read again: what can change while the server runs does.

What cannot is named in the log, and counts from the next start on. Plugins need no signal: their
folders are followed (`discovery.py`); packages with plugins that were installed meanwhile come with
it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

from lmapps.errors import SettingsError
from lmapps.server.settings import ServeSettings

LOG = logging.getLogger("lmapps.server")
Read = Callable[[], ServeSettings]
"""Reads the settings as at the start. Raises `SettingsError`."""


class Reload:
    """Takes new settings over, each time it is called; from any thread.

    now    the settings of the start
    apply  what each part of the server does with the settings, whichever have changed
    """

    def __init__(
        self, now: ServeSettings, read: Read, apply: Sequence[Callable[[ServeSettings], None]]
    ) -> None:
        self.now, self._read, self._apply = now, read, apply
        self._turn = threading.Lock()

    def __call__(self) -> None:
        with self._turn:
            try:
                new = self._read()
            except SettingsError as error:
                told = {"reason": str(error)}
                LOG.error("settings are not loaded again", extra={"fields": told})
                return
            changed = [one for one in fields(new) if _differs(one.name, self.now, new)]
            live = [one.name for one in changed if one.metadata["live"]]
            late = [one.name for one in changed if not one.metadata["live"]]
            for apply in self._apply:
                apply(new)
            self.now = replace(self.now, **{name: getattr(new, name) for name in live})
        told = {"changed": ", ".join(live) or "nothing"}
        if late:
            told["at_the_next_start"] = ", ".join(late)
        LOG.warning("settings are loaded again", extra={"fields": told})


class Hangup:
    """SIGHUP, from when this is made on: what it does is said later, where there is something to
    reload; one that comes before is remembered. It runs in a thread of its own, since a signal
    comes in the middle of anything. A terminal that was closed sends the same signal: then the
    server ends."""

    def __init__(self) -> None:
        self._reload: Callable[[], None] | None = None
        self._came = False
        self._had_terminal = os.isatty(0)
        if hasattr(signal, "SIGHUP"):  # not on Windows
            signal.signal(signal.SIGHUP, self._handle)

    def reloads(self, reload: Callable[[], None]) -> None:
        """From now on, and once now if it has come already. Called, as a signal is handled, in the
        main thread."""
        self._reload = reload
        if self._came:
            self._begin(reload)

    def _handle(self, *_: object) -> None:
        if self._had_terminal and not os.isatty(0):
            signal.raise_signal(signal.SIGTERM)
        elif self._reload:
            self._begin(self._reload)
        else:
            self._came = True

    def _begin(self, reload: Callable[[], None]) -> None:
        threading.Thread(target=reload, name="reload").start()


def _differs(name: str, now: ServeSettings, new: ServeSettings) -> bool:
    return bool(getattr(now, name) != getattr(new, name))
