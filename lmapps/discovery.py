"""Folders and entry points -> plugins found, and plugins that failed with the reason.

A file is loaded by its location and never put on `sys.path`, where `code.py` would shadow the
standard library. Nothing is installed, moved or edited.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from lmapps.errors import PluginError
from lmapps.paths import plugin_folders
from lmapps.plugin import Plugin

GROUP = "lmapps.plugins"


@dataclass(frozen=True)
class Failure:
    """A plugin file that could not be used."""

    file: str
    line: int | None
    reason: str
    fix: str

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{place}: {self.reason}. {self.fix}"


@dataclass
class Found:
    """What is there: plugins by name, where each came from, and what failed."""

    plugins: dict[str, Plugin] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def get(self, name: str) -> Plugin:
        """A plugin by name. Raises `PluginError` with the known ones."""
        if name not in self.plugins:
            known = ", ".join(sorted(self.plugins)) or "none"
            raise PluginError(f"there is no plugin {name!r}; known: {known}")
        return self.plugins[name]

    def add(self, plugin: Plugin, source: str) -> None:
        """Keep a plugin, or a failure where its name is taken: the first one found has it."""
        if plugin.name in self.plugins:
            self.failures.append(
                Failure(
                    source,
                    plugin.function.__code__.co_firstlineno,
                    f"the name {plugin.name!r} is taken by {self.sources[plugin.name]}",
                    "Rename the function, or start the file's name with _ to leave it out.",
                )
            )
            return
        self.plugins[plugin.name] = plugin
        self.sources[plugin.name] = source


def discover(folders: Sequence[Path] | None = None) -> Found:
    """Every plugin in the folders (lmapps's own and the person's, if None) and in packages.

    A plugin that does not load is reported in `failures`; the others load.
    """
    found = Found()
    for folder in plugin_folders() if folders is None else folders:
        for file in sorted(folder.glob("*.py")) if folder.is_dir() else ():
            if not file.name.startswith("_"):
                _load_file(file, found)
    for point in entry_points(group=GROUP):
        _load_entry_point(point, found)
    return found


def _load_file(file: Path, found: Found) -> None:
    try:
        plugins = list(_plugins_of(_module(file)))
        if not plugins:
            raise PluginError("there is no plugin in it")
    except (Exception, SystemExit) as error:  # the plugin boundary
        found.failures.append(_failure(str(file), error))
        return
    for plugin in plugins:
        found.add(plugin, str(file))


def _load_entry_point(point: EntryPoint, found: Found) -> None:
    source = f"package entry point {point.name} ({point.value})"
    try:
        loaded = point.load()
        plugins = list(_plugins_of(loaded)) if isinstance(loaded, ModuleType) else [loaded]
        if not plugins or not all(isinstance(plugin, Plugin) for plugin in plugins):
            raise PluginError("it names no plugin")
    except (Exception, SystemExit) as error:  # the plugin boundary
        found.failures.append(_failure(source, error))
        return
    for plugin in plugins:
        found.add(plugin, source)


def _module(file: Path) -> ModuleType:
    """Run a file as a module of its own, known to `sys.modules` under a name nobody imports."""
    place = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]
    name = f"lmapps_plugin_{place}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _plugins_of(module: ModuleType) -> Iterator[Plugin]:
    """The plugins made in a module, not those it imported."""
    for value in vars(module).values():
        if isinstance(value, Plugin) and value.function.__module__ == module.__name__:
            yield value


def _failure(source: str, error: BaseException) -> Failure:
    """Where it went wrong, why, and what to do."""
    reason = str(error) or type(error).__name__
    if isinstance(error, SyntaxError):
        return Failure(source, error.lineno, f"not Python: {error.msg}", "Correct that line.")
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source
    ]
    line = getattr(error, "line", None) or (frames[-1].lineno if frames else None)
    if isinstance(error, PluginError):
        fix = "Correct the plugin; docs/article.md and the files in plugins/ show the form."
        return Failure(source, line, reason, fix)
    if isinstance(error, ImportError):
        missing = error.name or "the package"
        return Failure(source, line, reason, f"Install {missing} or remove the import.")
    return Failure(source, line, f"{type(error).__name__}: {reason}", "Correct that line.")
