"""A plugin's code -> threads of its own, limited in time, so that one that hangs stops no other."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from lmapps.errors import Busy, PluginError
from lmapps.failures import Failure, remember
from lmapps.interrupt import interrupt
from lmapps.plugin import Plugin
from lmapps.sentence import Sentence

LOG = logging.getLogger("lmapps.plugins")
LIMIT = 30.0
"""Seconds after which a call of a plugin's code is given up."""
THREADS = 4
"""The most calls of one plugin's code that run at once; the others wait."""
IDLE = 2.0
"""Seconds after which a thread ends that nobody needed: to start one takes longer than most calls,
and the event loop waits for it."""

T = TypeVar("T")


class Workers:
    """The threads of one plugin. They are daemons: none keeps the process from ending."""

    def __init__(self, plugin: Plugin) -> None:
        self._name, self._code = plugin.name, inspect.unwrap(plugin.function).__code__
        self._turn = threading.RLock()
        self._waiting: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._running: set[_Call] = set()
        self._open = self._threads = 0
        """Calls that wait or run, and threads for them."""

    async def run(self, work: Callable[[], T], wanted: str) -> T:
        """What the work returns. Raises what it raises, `PluginError` where it has not done what
        is `wanted` ("asked anything") in time, and `Busy` where no thread ever comes free.
        """
        call = _Call(contextvars.copy_context(), work, wanted)
        with self._turn:
            self._open += 1
            self._waiting.put(call)
            self._go_on()
        self._watch(call, LIMIT)
        try:
            result: T = await asyncio.wrap_future(call.result)
            return result
        finally:
            if call not in self._running:  # who leaves meanwhile leaves the call alone
                call.timer.cancel()

    def _go_on(self) -> None:
        """A thread for each call, as far as there are any; where all are stuck, what waits is
        refused."""
        while self._threads < min(THREADS, self._open):
            self._threads += 1
            threading.Thread(target=self._work, daemon=True, name=f"plugin {self._name}").start()
        if len(self._running) == THREADS and all(call.is_given_up for call in self._running):
            with suppress(queue.Empty):
                while True:
                    call = self._waiting.get_nowait()
                    self._open -= 1
                    call.answer(
                        error=Busy(
                            "all {count} threads of plugin {name!r} are stuck: try later",
                            count=THREADS,
                            name=self._name,
                        )
                    )

    def _work(self) -> None:
        """One thread: call after call, until none has come for a while."""
        call = None
        while (call is None or not call.is_given_up) and (call := self._next()):
            self._do(call)
        with self._turn:
            self._threads -= 1
            self._go_on()

    def _next(self) -> _Call | None:
        """The call that has waited longest."""
        while True:
            try:
                call = self._waiting.get(timeout=IDLE)
            except queue.Empty:
                return None
            with self._turn:
                if not call.result.cancelled():
                    self._running.add(call)
                    call.thread, call.began = threading.current_thread(), time.monotonic()
                    return call
                self._open -= 1

    def _do(self, call: _Call) -> None:
        result, failure = None, None
        try:
            try:
                result = call.context.run(call.work)
            except Exception as error:
                failure = error
            finally:
                self._end(call)  # from here on nobody interrupts this thread
        except BaseException as error:  # `sys.exit()` in a plugin, or the interruption
            self._end(call)
            failure = PluginError(f"plugin {self._name!r} ended with {type(error).__name__}")
        call.answer(result, failure)  # at last: the next call may take this thread at once

    def _end(self, call: _Call) -> None:
        with self._turn:
            if call in self._running:
                self._running.remove(call)
                self._open -= 1

    def _watch(self, call: _Call, seconds: float) -> None:
        call.timer = asyncio.get_running_loop().call_later(seconds, self._look_at, call)

    def _look_at(self, call: _Call) -> None:
        """Give a call up that has had its time; another one is looked at again."""
        left = LIMIT if call.began is None else call.began + LIMIT - time.monotonic()
        if left <= 0:
            self._give_up(call)
        elif call in self._running or not call.result.done():
            self._watch(call, left)

    def _give_up(self, call: _Call) -> None:
        with self._turn:
            if call not in self._running:
                return
            call.is_given_up = True
            reason = Sentence(
                "plugin {name!r} has not {wanted} within {seconds:g} seconds",
                name=self._name, wanted=call.wanted, seconds=LIMIT,
            )  # fmt: skip
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
    timer: asyncio.TimerHandle

    def __init__(self, context: contextvars.Context, work: Callable[[], Any], wanted: str) -> None:
        self.context, self.work, self.wanted = context, work, wanted
        self.began: float | None = None
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
