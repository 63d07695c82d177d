"""The machine -> system, processor, memory, disk, limits, clock, and what is wrong with them."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from lmapps.doctor.finding import Finding
from lmapps.machine import memory_limit, total_memory, usable_cores
from lmapps.paths import home

SUPPORTED = (3, 11), (3, 12)
LEAST_DISK = 2**30
LEAST_MEMORY = 2 * 2**30
LEAST_FILES = 1024
BUILT = 1_790_000_000
"""Seconds since 1970, in 2026: no clock of a machine that has this version says less."""
LOCAL_NAMES = ("localhost", "127.0.0.1")


def look_at_machine(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Everything about the machine, in the order in which a person reads it."""
    yield _python()
    yield from _processor(environment)
    yield _memory()
    yield from _disk()
    yield from _temporary()
    yield from _files()
    yield from _clock()
    yield from _proxy(environment)
    yield from _text()


def _python() -> Finding:
    told = f"{platform.platform()}, Python {platform.python_version()}"
    if sys.version_info[:2] in SUPPORTED:
        return Finding("system", told)
    known = " or ".join(f"{major}.{minor}" for major, minor in SUPPORTED)
    way_out = f"install Python {known} and make the environment again with it"
    return Finding("system", told, way_out, fatal=sys.version_info[:2] < SUPPORTED[0])


def _processor(environment: Mapping[str, str]) -> Iterator[Finding]:
    cores = usable_cores()
    yield Finding("processor", f"{cores} cores, {platform.machine()}")
    threads = environment.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads) != cores:
        told = f"OMP_NUM_THREADS={threads} on {cores} cores"
        yield Finding("threads", told, "unset it, unless other programs need the rest")


def _memory() -> Finding:
    total = total_memory()
    if total is None:
        return Finding("memory", "not known on this system")
    limit = memory_limit()
    inside = f" of {total / 2**30:.1f} GiB, by the container's limit" if limit else ""
    told = f"{(limit or total) / 2**30:.1f} GiB{inside}"
    if (limit or total) >= LEAST_MEMORY:
        return Finding("memory", told)
    way_out = "2 GiB are the least: " + (
        "raise the container's limit" if limit else "use a larger machine"
    )
    return Finding("memory", told, way_out)


def _disk() -> Iterator[Finding]:
    folder = existing(home())
    free = shutil.disk_usage(folder).free
    told = f"{free / 2**30:.1f} GiB free for {home()}"
    way_out = "make room, or move the data folder with LMAPPS_HOME" if free < LEAST_DISK else ""
    yield Finding("disk", told, way_out, fatal=bool(way_out))


def _temporary() -> Iterator[Finding]:
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
            file.flush()
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        told = f"no folder for temporary files can be written ({error.strerror or error})"
        yield Finding("temporary", told, "set TMPDIR to one that can", fatal=True)
        return
    if free < LEAST_DISK / 4:
        told = f"{free / 2**20:.0f} MB free in {folder}, where uploads lie"
        yield Finding("temporary", told, "make room there, or set TMPDIR")


def _files() -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # Windows
        return
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < LEAST_FILES:
        told = f"a process may open {hard} files, and a connection is one"
        yield Finding("open files", told, "raise it: `ulimit -Hn`, LimitNOFILE= in systemd")


def _clock() -> Iterator[Finding]:
    now = time.time()
    if now < BUILT:
        told = f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(now))}"
        yield Finding("clock", told, "set it: sessions and certificates depend on it")


def _proxy(environment: Mapping[str, str]) -> Iterator[Finding]:
    lower = {name.lower(): value for name, value in environment.items()}
    proxy = lower.get("http_proxy") or lower.get("all_proxy")
    excepted = [name.strip() for name in lower.get("no_proxy", "").split(",")]
    if proxy and "*" not in excepted and not set(LOCAL_NAMES) & set(excepted):
        told = "programs on this machine ask a proxy for the server on this machine"
        yield Finding("proxy", told, f"set NO_PROXY={','.join(LOCAL_NAMES)}")


def _text() -> Iterator[Finding]:
    encoding = sys.stdout.encoding or "unknown"
    if encoding.lower().replace("-", "") != "utf8":
        told = f"the terminal takes {encoding}: text in other scripts cannot be shown"
        yield Finding("terminal", told, "set LANG=C.UTF-8, or PYTHONUTF8=1")


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())
