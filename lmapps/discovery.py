"""Folders and entry points -> plugins found, and plugins that failed with the reason.

A `Library` looks again when it is told to and loads only what has changed, so that a running
server follows its plugin folders.
"""

from __future__ import annotations

import builtins
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

from lmapps.errors import PluginError
from lmapps.failures import Failure
from lmapps.loading import LIMIT, Loading, is_plugin_file, load_entry_point, load_file
from lmapps.paths import plugin_folders
from lmapps.plugin import Plugin
from lmapps.switches import switched_off

GROUP = "lmapps.plugins"
LOOK_SECONDS = 0.25
"""How often a running server looks at its plugin folders."""
SETTLE_SECONDS = 0.005
"""How long a look waits for one file before it sees what came of the others."""


@dataclass
class Found:
    """What is there: plugins by name, where each came from, and what failed."""

    plugins: dict[str, Plugin] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    off: dict[str, str] = field(default_factory=dict)
    """Names that a person switched off, and where each came from."""
    version: int = 0
    """Counts the changes; a plugin in `revisions` is as it was made in that version."""
    revisions: dict[str, int] = field(default_factory=dict)

    @property
    def what(self) -> tuple[object, ...]:
        """Everything that a person may see of it."""
        return self.plugins, self.sources, self.failures, self.off

    def get(self, name: str) -> Plugin:
        """A plugin by name. Raises `PluginError` with the known ones."""
        if name in self.off:
            raise PluginError(
                f"plugin {name!r} is switched off: turn it on with `lmapps plugins on {name}`"
            )
        if name not in self.plugins:
            known = ", ".join(sorted(self.plugins)) or "none"
            raise PluginError(f"there is no plugin {name!r}; known: {known}")
        return self.plugins[name]

    def add(self, plugin: Plugin, source: str) -> None:
        """Keep a plugin, or a failure where its name is taken: the first one found has it."""
        reason = self._name_trouble(plugin.name)
        if reason:
            line = plugin.function.__code__.co_firstlineno
            fix = "Rename the function, or start the file's name with _ to leave it out."
            self.failures.append(Failure(source, line, reason, fix))
            return
        self.plugins[plugin.name] = plugin
        self.sources[plugin.name] = source

    def _name_trouble(self, name: str) -> str:
        taken = self.sources.get(name) or self.off.get(name)
        if taken:
            return f"the name {name!r} is taken by {taken}"
        if hasattr(builtins, name):
            return f"the name {name!r} hides Python's own {name}()"
        if name.startswith("_"):
            return f"the name {name!r} begins with an underscore"
        return ""


def discover(folders: Sequence[Path] | None = None) -> Found:
    """Every plugin in the folders (lmapps's own and the person's, if None) and in packages.

    A plugin that does not load is reported in `failures`; the others load.
    """
    return Library(folders).found


class Library:
    """Plugin folders and packages, and what was found in them; `look` follows their changes."""

    def __init__(self, folders: Sequence[Path] | None = None, patience: float = LIMIT) -> None:
        """`patience`: seconds to wait for a file that hangs; `look` picks up what comes later."""
        self.found = Found()
        self._folders, self._patience = folders, patience
        self._points = list(entry_points(group=GROUP))
        self._entries: dict[str, _Entry] = {}
        self.look()

    def look_for_packages(self) -> None:
        """See the packages that were installed meanwhile, at the next look."""
        self._points = list(entry_points(group=GROUP))

    def look(self) -> list[str]:
        """Load what has changed since the last look. Returns sentences about it."""
        entries, begun = {}, list[_Entry]()
        for source, (stamp, begin) in dict(self._present()).items():
            entry = self._entries.get(source)
            if entry is None or entry.stamp != stamp:
                entry = _Entry(stamp, begin(), entry.plugins if entry else [])
                begun.append(entry)
            else:
                entry.settle(0)
            entries[source] = entry
        self._wait_for(begun)
        self._entries = entries
        return self._update()

    def _wait_for(self, begun: list[_Entry]) -> None:
        """Wait until all are loaded, or none more has come for as long as the patience."""
        latest = time.monotonic()
        while begun:
            left = [entry for entry in begun if not entry.settle(0)]
            if len(left) < len(begun):
                latest = time.monotonic()
            elif time.monotonic() - latest >= self._patience:
                return
            elif left:
                left[0].settle(SETTLE_SECONDS)
            begun = left

    @contextmanager
    def watched(self, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Look again and again in a thread of its own, and say what changed."""
        ended = threading.Event()

        def watch() -> None:
            trouble = ""
            while not ended.wait(LOOK_SECONDS):
                try:
                    for sentence in self.look():
                        say(sentence)
                    trouble = ""
                except Exception as error:  # the next look may see more
                    before, trouble = trouble, f"{type(error).__name__}: {error}"
                    with suppress(Exception):  # it may be the saying that failed
                        if trouble != before:
                            say(f"the plugin folders cannot be looked at now ({trouble})")

        thread = threading.Thread(target=watch, daemon=True, name="plugin folders")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _present(self) -> Iterator[tuple[str, tuple[_Stamp, Callable[[], Loading]]]]:
        folders = plugin_folders() if self._folders is None else self._folders
        for folder in folders:
            for file in sorted(folder.iterdir()) if folder.is_dir() else ():
                if is_plugin_file(file):
                    yield str(file), (_stamp(file), partial(load_file, file))
        for point in self._points:
            yield str(point), ((), partial(load_entry_point, point))

    def _update(self) -> list[str]:
        """Put what was found in place of what was there; readers hold on to the same `Found`."""
        before, now, off = self.found, Found(), switched_off()
        for entry in self._entries.values():
            for plugin in entry.plugins:
                if plugin.name in off and plugin.name not in now.off:
                    now.off[plugin.name] = entry.source
                else:
                    now.add(plugin, entry.source)
            if entry.failure:
                now.failures.append(entry.failure)
        if now.what == before.what:
            return []
        now.version = before.version + 1
        for name, plugin in now.plugins.items():
            same = before.plugins.get(name) is plugin
            now.revisions[name] = before.revisions[name] if same else now.version
        sentences = list(_changes(before, now))
        vars(before).update(vars(now))
        return sentences


_Stamp = tuple[int, ...]


@dataclass
class _Entry:
    """What came of a file or an entry point, last time."""

    stamp: _Stamp
    loading: Loading | None
    plugins: list[Plugin]
    """Those of the last version that loaded: a broken edit leaves them in use."""
    failure: Failure | None = None
    source: str = ""

    def settle(self, seconds: float) -> bool:
        """Take over what has been loaded, waiting so long for it. Whether it is done."""
        if self.loading is None:
            return True
        self.source = self.loading.source
        result = self.loading.result(seconds)
        if isinstance(result, list):
            self.plugins, self.failure = result, None
        else:
            self.failure = result or self.loading.unfinished()
        if result is not None:
            self.loading = None
        return self.loading is None


def _stamp(file: Path) -> _Stamp:
    """What changes when a file is edited or replaced."""
    try:
        state = os.stat(file)
    except OSError:  # a link that leads nowhere
        return ()
    return state.st_mtime_ns, state.st_size, state.st_ino


def _changes(before: Found, now: Found) -> Iterator[str]:
    for name, plugin in now.plugins.items():
        if name not in before.plugins:
            yield f"plugin {name} is there: {now.sources[name]}"
        elif before.plugins[name] is not plugin:
            yield f"plugin {name} is loaded again: {now.sources[name]}"
    for name in before.plugins:
        if name not in now.plugins:
            yield f"plugin {name} is {'switched off' if name in now.off else 'gone'}"
    for failure in now.failures:
        if failure not in before.failures:
            yield f"plugin not loaded: {failure}"
