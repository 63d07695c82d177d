"""A Python program that nobody has read -> whether it ran to its end, held by the kernel.

Isolation is the kernel's: `confine.py` has the namespaces, the seccomp filter and the limits.
Where the kernel refuses them, nothing is run: there is no weaker way.
"""

from __future__ import annotations

import functools
import os
import platform
import secrets
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lmapps.errors import LmappsError
from lmapps.evaluation import confine

CONFINE = Path(confine.__file__)
OUTPUT_SHOWN = 2000


class NoSandbox(LmappsError):
    """This machine cannot hold a program that nobody has read."""


@dataclass(frozen=True)
class Limits:
    """What a program may use. Of files it sees Python's own, and an empty folder in memory."""

    seconds: int = 5
    """Of the clock, and of one processor."""
    memory: int = 256 << 20
    """Bytes of address space of each process."""
    file: int = 1 << 20
    """Bytes of one file, and of what it prints."""
    processes: int = 8
    """At the same time, threads included."""


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    passed: bool
    """It ran to its last line without an error."""
    reason: str
    """`passed`, `timed out`, or the exit code or signal."""
    output: str
    """The end of what it printed."""


def run_python(program: str, limits: Limits = Limits()) -> Outcome:
    """Run a program in the sandbox. Raises `NoSandbox` where there is none."""
    refuse_without_sandbox()
    return _run(program, limits)


def refuse_without_sandbox() -> None:
    """Raises `NoSandbox` where programs cannot be confined."""
    reason = why_not()
    if reason:
        raise NoSandbox(f"programs are not run here: {reason}")


@functools.cache
def why_not() -> str | None:
    """Why programs cannot be confined on this machine; None where they can."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return f"the sandbox needs Linux on x86_64 or aarch64, not {platform.platform()}"
    outcome = _run("pass", Limits(seconds=20))
    if outcome.passed:
        return None
    return f"the kernel refuses to confine them ({outcome.output.strip() or outcome.reason})"


def _run(program: str, limits: Limits) -> Outcome:
    # The last line: a program that ends itself before its tests has not passed them.
    mark = secrets.token_hex(16)
    whole = f"{program}\nprint({mark!r}, flush=True)\n"
    words = [limits.seconds, limits.memory, limits.file, limits.processes]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [sys.executable, "-I", str(CONFINE), folder, *map(str, words)],
            input=whole.encode(errors="surrogatepass"),
            stdout=output,
            stderr=output,
            cwd="/",
            env={"PATH": os.defpath},
            check=False,
        )
        output.seek(0)
        text = output.read().decode(errors="replace")
    passed = done.returncode == 0 and text.rstrip().endswith(mark)
    return Outcome(passed, _reason(done.returncode, passed), text.replace(mark, "")[-OUTPUT_SHOWN:])


def _reason(code: int, passed: bool) -> str:
    if code == confine.TIMED_OUT:
        return "timed out"
    if code == 0:
        return "passed" if passed else "ended before its last line"
    return f"signal {256 - code}" if code > 128 else f"exit code {code}"
