"""A plugin's code -> threads of its own, limited in time, so that one that hangs stops no other."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from lmapps.errors import Busy, PluginError
from lmapps.failures import Failure, remember
from lmapps.interrupt import interrupt
from lmapps.plugin import Plugin

LOG = logging.getLogger("lmapps.plugins")
LIMIT = 30.0
"""Seconds after which a call of a plugin's code is given up."""
THREADS = 4
"""The most calls of one plugin's code that run at once; the others wait."""

T = TypeVar("T")


class Workers:
    """The threads of one plugin. They are daemons: none keeps the process from ending."""

    def __init__(self, plugin: Plugin) -> None:
        self._name, self._code = plugin.name, inspect.unwrap(plugin.function).__code__
        self._turn = threading.RLock()
        self._waiting: deque[_Call] = deque()
        self._running: set[_Call] = set()

    async def run(self, work: Callable[[], T], wanted: str) -> T:
        """What the work returns. Raises what it raises, `PluginError` where it has not done what
        is `wanted` ("asked anything") in time, and `Busy` where no thread ever comes free.
        """
        call = _Call(contextvars.copy_context(), work, wanted)
        with self._turn:
            self._waiting.append(call)
            self._go_on()
        result: T = await asyncio.wrap_future(call.result)  # cancelled, it leaves the call alone
        return result

    def _go_on(self) -> None:
        """Begin what waits, as far as there are threads; where all are stuck, refuse it."""
        while self._waiting and len(self._running) < THREADS:
            call = self._waiting.popleft()
            if not call.result.cancelled():
                self._running.add(call)
                call.thread = threading.Thread(
                    target=self._run, args=[call], daemon=True, name=f"plugin {self._name}"
                )
                call.thread.start()
        if len(self._running) == THREADS and all(call.is_given_up for call in self._running):
            for call in self._waiting:
                call.answer(
                    error=Busy(
                        f"all {THREADS} threads of plugin {self._name!r} are stuck: try later"
                    )
                )
            self._waiting.clear()

    def _run(self, call: _Call) -> None:
        limit = threading.Timer(LIMIT, self._give_up, [call])
        limit.daemon = True
        limit.start()
        try:
            try:
                call.answer(call.context.run(call.work))
            except Exception as error:
                call.answer(error=error)
            finally:
                limit.cancel()
                with self._turn:  # from here on nobody interrupts this thread
                    self._running.discard(call)
                    self._go_on()
        except BaseException as error:  # `sys.exit()` in a plugin, or the interruption
            kind = type(error).__name__
            call.answer(error=PluginError(f"plugin {self._name!r} ended with {kind}"))
            with self._turn:
                self._running.discard(call)
                self._go_on()

    def _give_up(self, call: _Call) -> None:
        with self._turn:
            if call not in self._running:
                return
            call.is_given_up = True
            reason = f"plugin {self._name!r} has not {call.wanted} within {LIMIT:g} seconds"
            failure = Failure(
                self._code.co_filename, self._line_of(call), reason, "End its loop, or do less."
            )
            call.answer(error=PluginError(reason))
            interrupt(call.thread)
            self._go_on()
        LOG.error("%s", failure)
        remember(failure)

    def _line_of(self, call: _Call) -> int:
        """Where in the plugin's file it is by now."""
        frame = sys._current_frames().get(call.thread.ident or 0)
        while frame is not None:
            if frame.f_code.co_filename == self._code.co_filename:
                return frame.f_lineno
            frame = frame.f_back
        return self._code.co_firstlineno


class _Call:
    """One call of a plugin's code."""

    thread: threading.Thread

    def __init__(self, context: contextvars.Context, work: Callable[[], Any], wanted: str) -> None:
        self.context, self.work, self.wanted = context, work, wanted
        self.result: Future[Any] = Future()
        self.is_given_up = False

    def answer(self, result: Any = None, error: BaseException | None = None) -> None:
        """The first answer counts; nobody waits for it where the person has left."""
        with suppress(InvalidStateError):
            if error is None:
                self.result.set_result(result)
            else:
                self.result.set_exception(error)


_KNOWN: WeakKeyDictionary[Plugin, Workers] = WeakKeyDictionary()
_KNOWING = threading.Lock()


def workers_of(plugin: Plugin) -> Workers:
    """The threads of a plugin; one that was loaded again has others."""
    with _KNOWING:
        return _KNOWN.setdefault(plugin, Workers(plugin))
