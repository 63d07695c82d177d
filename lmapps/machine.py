"""This machine, and the container around this process -> how much memory there is, and is free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


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
    for folder, limit, usage in _cgroups():
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


def _cgroups() -> list[tuple[Path, str, str]]:
    """This process's cgroups that may limit memory, versions 1 and 2, with the names of files."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            top = CGROUPS / "memory"
        elif not controllers:
            names, top = ("memory.max", "memory.current"), CGROUPS
        else:
            continue
        folder = top / path.lstrip("/")
        found += [
            (place, *names) for place in (folder, *folder.parents) if place.is_relative_to(top)
        ]
    return found


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
