"""This machine, and the container around this process -> how much memory there is, and is free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_NAMES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}
"""Of the files of a cgroup that limit memory, by its version."""


def total_memory() -> int | None:
    """Bytes that the machine has; None where it does not say."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def memory_limit() -> int | None:
    """Bytes that the nearest limit of the container leaves to all of its processes together, where
    that is less than the machine has."""
    limit = min((highest for highest, _ in _limits()), default=None)
    total = total_memory()
    return limit if limit is not None and (total is None or limit < total) else None


def free_memory() -> int | None:
    """Bytes that could be had now, of the machine and within every limit of the container."""
    free = [highest - used for highest, used in _limits()]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return min(free, default=None)
    numbers = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if ":" in line}
    return min([*free, *([numbers["MemAvailable"]] if "MemAvailable" in numbers else [])])


def _limits() -> Iterator[tuple[int, int]]:
    """Each limit and what is used of it; pages of files can be given back and do not count."""
    for version, folder in _cgroups("memory"):
        limit, usage = _NAMES[version]
        try:
            highest = int((folder / limit).read_text())
            used = int((folder / usage).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # "max": there is no limit
            continue
        pages = sum(_of_all(stat, name) for name in ("inactive_file", "active_file"))
        yield highest, used - pages


def _of_all(stat: dict[str, str], name: str) -> int:
    """With the groups below, as usage is: version 1 has another name for it."""
    return int(stat.get(f"total_{name}", stat.get(name, 0)))


def _cgroups(controller: str) -> Iterator[tuple[int, Path]]:
    """Version and folder of each cgroup around this process that may limit that."""
    for line in _own_cgroups():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        version, top = (1, CGROUPS / controller) if controllers else (2, CGROUPS)
        folder = top / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(top):
                yield version, place


def _own_cgroups() -> list[str]:
    try:
        return Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []


def usable_cores() -> int:
    """Cores that this process may keep busy: those that it is bound to, and no more than its
    container may use at a time."""
    return max(1, min([_bound_cores(), *map(int, _shares_of_cores())]))


def limit_threads() -> None:
    """Before torch is there: it would take a thread for each core that the process is bound to,
    and where the container may keep fewer busy they would wait for each other most of the time."""
    cores = usable_cores()
    if cores < _bound_cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def _bound_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _shares_of_cores() -> Iterator[float]:
    """Of each cgroup that has one, the limit of the time of its processes, in cores."""
    for version, folder in _cgroups("cpu"):
        try:
            if version == 2:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = (
                    (folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
                )
            share = int(quota) / int(period)
        except (OSError, ValueError):  # "max": there is no limit
            continue
        if share > 0:  # -1: there is no limit
            yield share
