"""Requests as they come -> the scheduler's steps in one thread; when it ends, all are told."""

from __future__ import annotations

import logging
import threading
import time

import torch

from lmapps.engine.devices import current
from lmapps.engine.request import Request
from lmapps.engine.scheduler import Scheduler
from lmapps.errors import EngineFailed, ShuttingDown

LOG = logging.getLogger("lmapps.engine")
MOST_FAILURES = 3
"""So many steps may fail without one reply coming to its end in between; then the thread ends, and
whoever looks after models begins anew (`Models.mend`)."""


class Loop:
    """The engine's thread.

    A step that fails ends what is under way, each request with the reason, and the next one goes
    on: every prompt is read from its beginning again.
    """

    def __init__(self, scheduler: Scheduler, device: torch.device) -> None:
        self._scheduler, self._device = scheduler, device
        self.turn = threading.Condition()
        """Held by whoever puts a request in, from before it is checked."""
        self.arrived: list[Request] = []
        self.is_closed = False
        self.preparing: str | None = "its thread begins"
        """What is done before the first step; requests wait meanwhile."""
        self._reason = ""
        self._failures = self._well = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def broken(self) -> str | None:
        """Why nobody is answered any more; None while it goes on, and once it was closed."""
        if self.is_closed:
            return None
        return self._reason or (None if self._thread.is_alive() else "its thread is gone")

    def put(self, request: Request) -> None:
        """Queue a request. The caller holds `turn`."""
        self.arrived.append(request)
        self.turn.notify()

    def close(self) -> None:
        """End what is under way and stop the thread, where it is still there."""
        reason = self.broken
        with self.turn:
            self.is_closed = True
            self.turn.notify()
        self._thread.join()
        self._end_all(engine_failed(reason) if reason else ShuttingDown())

    def _run(self) -> None:
        try:
            with torch.inference_mode(), current(self._device):
                self._warm_up()
                while self._take_arrivals():
                    self._step()
        except BaseException as error:  # whatever it is, nobody is left waiting
            LOG.critical("the engine has ended", exc_info=error)
            self._reason = f"{type(error).__name__}: {error}"
            self._end_all(engine_failed(self._reason))

    def _warm_up(self) -> None:
        """What takes long the first time is done before anybody waits for it."""
        for preparing in self._scheduler.slots.warm_up():
            self.preparing = preparing
            if self.is_closed:
                return
        self.preparing = None

    def _step(self) -> None:
        """One round. Raises where several fail one after another."""
        counts = self._scheduler.counts
        try:
            self._scheduler.step()
        except Exception as error:  # the request boundary
            LOG.error("a step of the engine failed", exc_info=error)
            counts.trouble = time.monotonic(), f"{type(error).__name__}: {error}"
            self._scheduler.fail(error)
            well = counts.finished["stop"] + counts.finished["length"]
            self._failures = self._failures + 1 if well == self._well else 1
            self._well = well
            if self._failures == MOST_FAILURES:
                raise

    def _end_all(self, error: Exception) -> None:
        with self.turn:
            self._scheduler.waiting.extend(self.arrived)
            self.arrived.clear()
        self._scheduler.fail(error)

    def _take_arrivals(self) -> bool:
        """Sleep while there is nothing to do; False when the engine is closed."""
        with self.turn:
            while self._scheduler.idle and not self.arrived and not self.is_closed:
                self.turn.wait()
            self._scheduler.waiting.extend(self.arrived)
            self.arrived.clear()
            return not self.is_closed


def engine_failed(reason: str) -> EngineFailed:
    """What those are told who wait for a reply, and those who come before it goes on."""
    return EngineFailed(
        "the engine failed ({reason}): it is started again, try again in a moment", reason=reason
    )
