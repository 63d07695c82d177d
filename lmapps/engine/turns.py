"""A queue of requests -> whose turn it is. Pure functions of who waits and who holds slots.

A user is whoever takes turns with others: a name given in the API, an address, a page's session.
None is the program itself (a command, an evaluation): it takes turns too, but has no limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

User = str | None


def in_turn(
    waiting: Sequence[User], held: Mapping[User, int], last_turn: Mapping[User, int]
) -> list[int]:
    """The places of a queue in the order in which they will be served.

    First who holds the fewest slots, counting the requests that will be served before; then
    whose last turn is longest ago; then who came first.
    """
    before = Counter[User]()
    keys = []
    for place, user in enumerate(waiting):
        keys.append((held.get(user, 0) + before[user], last_turn.get(user, -1), place))
        before[user] += 1
    return [place for *_, place in sorted(keys)]


def next_place(
    waiting: Sequence[User], held: Mapping[User, int], last_turn: Mapping[User, int], slots: int
) -> int | None:
    """The place in the queue that gets the next slot; None where nobody there may have one."""
    present = {user for user, count in held.items() if count} | set(waiting)
    most = slots if len(present) == 1 else share(slots)
    for place in in_turn(waiting, held, last_turn):
        user = waiting[place]
        if user is None or held.get(user, 0) < most:
            return place
    return None


def share(places: int) -> int:
    """How many of these one person may take while others are there: half."""
    return max(1, places // 2)
