"""Threads of `libstep.so`: a model's step has its work done by them, and in between sampling."""

from __future__ import annotations

import weakref

from lmapps.native.library import Unavailable, library


class Threads:
    """So many, the caller's own among them; they wait until they are needed. One call at a time.

    Raises `Unavailable` where the system has none to give.
    """

    def __init__(self, count: int) -> None:
        self.handle: int | None = library().lmapps_threads(count)
        if not self.handle:
            raise Unavailable(f"there is not enough memory for {count} threads")
        self.count = count
        # Not at the interpreter's end, when the engine's thread may be in the middle of a step.
        weakref.finalize(self, library().lmapps_threads_free, self.handle).atexit = False
