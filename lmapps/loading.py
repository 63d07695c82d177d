"""A plugin file or an entry point -> the plugins in it, or a `Failure`: where, why, what to do.

A file is loaded by its location and never put on `sys.path`, where `code.py` would shadow the
standard library. Nothing is installed, moved, edited or compiled to disk. Each is loaded in a
thread of its own, so that one that hangs stops neither the others nor the host.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

from lmapps.errors import LmappsError, PluginError
from lmapps.failures import Failure
from lmapps.interrupt import interrupt
from lmapps.plugin import Plugin
from lmapps.toml_plugin import read_toml_plugin

LIMIT = 10.0
"""Seconds after which a file that has not finished loading is given up."""
SKIPPED = ("_", "test_", "conftest.", "pyproject.")
"""A file whose name begins so is no plugin: parts of one, and its tests."""


class Loading:
    """Plugins on their way, from a file or from a package."""

    def __init__(self, source: str, work: Callable[[], list[Plugin]]) -> None:
        self.source, self._work = source, work
        self._result: list[Plugin] | Failure | None = None
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"loading {source}")
        self._thread.start()

    def result(self, seconds: float) -> list[Plugin] | Failure | None:
        """What came of it, waited for so long. None while there is still hope."""
        self._thread.join(seconds)
        if self._result is None and time.monotonic() - self._started >= LIMIT:
            self._result = self.unfinished(f"it has not finished loading after {LIMIT:g} seconds")
            interrupt(self._thread)
        return self._result

    def unfinished(self, reason: str = "it is still loading") -> Failure:
        """Where it is by now."""
        fix = "Do long work when the plugin is used, not when its file is loaded."
        frame = sys._current_frames().get(self._thread.ident or 0)
        lines = []
        while frame is not None:
            if frame.f_code.co_filename == self.source:
                lines.append(frame.f_lineno)
            frame = frame.f_back
        return Failure(self.source, lines[0] if lines else None, reason, fix)

    def _run(self) -> None:
        try:
            result: list[Plugin] | Failure = self._work()
        except BaseException as error:  # the plugin boundary; `sys.exit()` in a file ends here too
            result = failure_of(self.source, error)
        if self._result is None:
            self._result = result


def load_file(file: Path) -> Loading:
    """Begin to load a plugin file."""
    return Loading(str(file), lambda: _plugins_in(file))


def load_entry_point(point: EntryPoint) -> Loading:
    """Begin to load what a package offers as a plugin: a module, or a plugin in one."""
    return Loading(f"package entry point {point.name} ({point.value})", lambda: _offered(point))


def load(file: str | Path, name: str | None = None) -> Plugin:
    """The plugin in a file, as a test of it needs it; `name` says which where there are several.

    Raises `PluginError` with file, line and reason where it does not load.
    """
    result = load_file(Path(file)).result(LIMIT)
    if not isinstance(result, list):
        raise PluginError(str(result))
    known = {plugin.name: plugin for plugin in result}
    chosen = name or next(iter(known))
    if chosen not in known or (name is None and len(known) > 1):
        raise PluginError(f"{file} has the plugins {', '.join(known)}: say which, got {name!r}")
    return known[chosen]


def is_plugin_file(file: Path) -> bool:
    """Whether a file of a plugin folder is looked at."""
    return file.suffix in (".py", ".toml") and not file.name.startswith(SKIPPED)


def _plugins_in(file: Path) -> list[Plugin]:
    if file.is_dir():
        raise PluginError("it is a folder, not a file")
    if file.is_symlink() and not file.resolve().is_relative_to(file.parent.resolve()):
        raise PluginError(f"it is a link to {file.resolve()}, outside the plugin folder")
    if file.suffix == ".toml":
        return [read_toml_plugin(file)]
    plugins = list(_made_in(_module(file)))
    if not plugins:
        raise PluginError("there is no plugin in it")
    return plugins


def _offered(point: EntryPoint) -> list[Plugin]:
    loaded = point.load()
    plugins = list(_made_in(loaded)) if isinstance(loaded, ModuleType) else [loaded]
    if not plugins or not all(isinstance(plugin, Plugin) for plugin in plugins):
        raise PluginError("it names no plugin")
    return plugins


def _module(file: Path) -> ModuleType:
    """Run a file as a module of its own, known to `sys.modules` under a name nobody imports.

    Python's own loader would keep the compiled file by its time in whole seconds: of two edits in
    one second it would not see the second.
    """
    place = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]
    module = ModuleType(f"lmapps_plugin_{place}_{file.stem}")
    module.__file__ = str(file)
    code = compile(_text(file), str(file), "exec", dont_inherit=True)
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # where dataclasses and type hints look for it
    try:
        exec(code, vars(module))  # noqa: S102
    except BaseException:
        if before is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = before
        raise
    return module


def _text(file: Path) -> str:
    """The source. Raises `SyntaxError` with the line that is not text."""
    source = file.read_bytes()
    try:
        return importlib.util.decode_source(source)
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        byte = source[error.start]
        raise SyntaxError(f"the byte {byte:#x} is no UTF-8", (str(file), line, 0, "")) from None


def _made_in(module: ModuleType) -> Iterator[Plugin]:
    """The plugins made in a module, each once, not those it imported."""
    values = {id(value): value for value in vars(module).values()}  # one may have two names
    for value in values.values():
        if isinstance(value, Plugin) and value.function.__module__ == module.__name__:
            yield value


def failure_of(source: str, error: BaseException) -> Failure:
    """Where it went wrong, why, and what to do."""
    reason = str(error) or type(error).__name__
    if isinstance(error, SyntaxError):
        text = "UTF-8" in reason or "encoding" in reason
        fix = "Save the file as UTF-8 text." if text else "Correct that line."
        return Failure(source, error.lineno, f"not Python: {error.msg}", fix)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source
    ]
    line = getattr(error, "line", None) or (frames[-1].lineno if frames else None)
    if isinstance(error, PluginError):
        fix = "Correct the plugin; docs/plugins.md and the files in plugins/ show the form."
        return Failure(source, line, reason, fix)
    if isinstance(error, LmappsError):
        return Failure(source, line, reason, "Correct that value.")
    if isinstance(error, ImportError):
        missing = error.name or "the package"
        fix = f"Install {missing} in the environment of lmapps, or remove the import."
        return Failure(source, line, reason, fix)
    if isinstance(error, UnicodeDecodeError) and line is None:
        return Failure(source, None, f"not UTF-8: {reason}", "Save the file as UTF-8 text.")
    if isinstance(error, OSError) and line is None:
        return Failure(source, None, f"it cannot be read: {error.strerror}", "Correct the file.")
    return Failure(source, line, f"{type(error).__name__}: {reason}", "Correct that line.")
