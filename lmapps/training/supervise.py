"""A run in a process of its own -> its exit code; killed for its memory, it goes on with less.

Linux ends a process that takes too much memory without an exception: only a parent can say so.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from lmapps.errors import LmappsError

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Killed(LmappsError):
    """The run was ended from outside."""


def supervised(work: Callable[[], int], after_kill: Callable[[], None]) -> int:
    """Run `work` in a child and return its exit code.

    Where the kernel killed the child for its memory, `after_kill` makes it need less, and `work`
    starts again; it raises where there is no way. Must be called before threads are started.
    """
    while True:
        killed_before = kills_for_memory()
        sys.stdout.flush()  # or the child would print it again
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _end_with(parent)
            code = work()
            sys.stdout.flush()
            sys.stderr.flush()
            # Here, without taking the interpreter apart, which needs memory too: killed in that, a
            # run whose report is written would be taken for one that was not finished.
            os._exit(code)
        code = _wait(child)
        if code != -signal.SIGKILL:
            return code if code >= 0 else 128 - code
        if kills_for_memory() == killed_before:
            raise Killed("the run was killed (signal 9); give the same command again to go on")
        after_kill()


def _end_with(parent: int) -> None:
    """In the child: a parent that is killed takes it along, or two would write into one folder."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def can_supervise() -> bool:
    """On Linux, one process at a time: under a launcher the launcher watches."""
    return sys.platform == "linux" and "RANK" not in os.environ


def kills_for_memory(file: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has killed for memory since it started."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _wait(child: int) -> int:
    """The exit code of a child, which gets Ctrl-C and a request to end instead of us."""

    def forward(number: int, _: object) -> None:
        os.kill(child, number)

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),  # the terminal tells both
        signal.SIGTERM: signal.signal(signal.SIGTERM, forward),
    }
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
