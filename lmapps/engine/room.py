"""Models in memory, and one that is to come -> which idle ones leave, or why there is no room."""

from __future__ import annotations

from collections.abc import Iterable

from lmapps.engine.entry import Entry
from lmapps.errors import Busy, ModelTooLarge


def who_leaves(coming: Entry, needed: int, entries: Iterable[Entry], budget: float) -> list[Entry]:
    """Idle ones of all models, the one that was not used for longest first, until the others and
    what is needed (bytes) fit the budget. Raises `ModelTooLarge`, or `Busy` where they are in use.
    """
    name, free = coming.source.name, budget - needed
    if free < 0:
        raise ModelTooLarge(
            "the model {name!r} takes about {needed}, and models may take {budget}: choose a "
            "smaller one, or allow more with --memory",
            name=name,
            needed=_gigabytes(needed),
            budget=_gigabytes(budget),
        )
    others = [other for other in entries if other is not coming]
    taken = sum(other.bytes for other in others)
    idle = [other for other in others if other.backend and not other.users]
    leaving = []
    for other in sorted(idle, key=lambda other: other.used):
        if taken <= free:
            break
        taken -= other.bytes
        leaving.append(other)
    if taken > free:
        busy = ", ".join(repr(o.source.name) for o in others if o.users or o.opening)
        raise Busy(
            "there is no memory for the model {name!r} now, {busy} being in use: try again in "
            "a moment, or allow more with --memory",
            5,
            name=name,
            busy=busy,
        )
    return leaving


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
