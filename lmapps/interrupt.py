"""A thread that runs somebody else's code -> ended."""

from __future__ import annotations

import ctypes
import threading


def interrupt(thread: threading.Thread) -> None:
    """Raise in the thread, so that an endless loop does not take the processor for good."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
    )
