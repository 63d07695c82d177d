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


def on_signal(reload: Callable[[], None]) -> None:
    """Reload at each SIGHUP, in a thread of its own: a signal comes in the middle of anything. A
    terminal that was closed sends the same signal: then the server ends."""
    if not hasattr(signal, "SIGHUP"):  # Windows
        return
    had_terminal = os.isatty(0)

    def handle(*_: object) -> None:
        if had_terminal and not os.isatty(0):
            signal.raise_signal(signal.SIGTERM)
        else:
            threading.Thread(target=reload, name="reload").start()

    signal.signal(signal.SIGHUP, handle)


def _differs(name: str, now: ServeSettings, new: ServeSettings) -> bool:
    return bool(getattr(now, name) != getattr(new, name))
