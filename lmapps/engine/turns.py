"""A queue of requests -> whose turn it is. Pure functions of who waits and who holds slots.

A user is whoever takes turns with others: an address, an API key, a page's session, and perhaps a
name that was given beside it (`subdivided`). Shares belong to the former, which nobody can choose;
the names take turns within. None is the program itself (a command, an evaluation): it takes turns
too, but has no limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

User = str | None
_BETWEEN = "\n"


def subdivided(owner: str, name: str) -> str:
    """One of several people behind an address or a key, as their program names them."""
    return f"{owner}{_BETWEEN}{name}"


def owner_of(user: User) -> User:
    """Whose share a user's requests are counted in."""
    return None if user is None else user.partition(_BETWEEN)[0]


def in_turn(
    waiting: Sequence[User], held: Mapping[User, int], last_turn: Mapping[User, int]
) -> list[int]:
    """The places of a queue in the order in which they will be served.

    First whose owner holds the fewest slots, counting the requests that will be served before,
    then who does among the owner's people; then whose last turn is longest ago; then who came
    first.
    """
    before = Counter[User]()
    within: list[tuple[int, int, int]] = []
    for place, user in enumerate(waiting):
        within.append((held.get(user, 0) + before[user], last_turn.get(user, -1), place))
        before[user] += 1
    of_owner, keys = held_by_owner(held), []
    for key in sorted(within):  # each owner's in their order, so that a share is counted in it
        user = waiting[key[2]]
        keys.append((of_owner[owner_of(user)], *key[1:]))
        of_owner[owner_of(user)] += 1
    return [place for *_, place in sorted(keys)]


def held_by_owner(held: Mapping[User, int]) -> Counter[User]:
    """The slots that each owner's people hold together."""
    together = Counter[User]()
    for user, count in held.items():
        together[owner_of(user)] += count
    return together


def next_place(
    waiting: Sequence[User], held: Mapping[User, int], last_turn: Mapping[User, int], slots: int
) -> int | None:
    """The place in the queue that gets the next slot; None where nobody there may have one."""
    together = held_by_owner(held)
    most = _most(waiting, together, slots)
    for place in in_turn(waiting, held, last_turn):
        user = waiting[place]
        if user is None or together[owner_of(user)] < most:
            return place
    return None


def left_waiting(waiting: Sequence[User], held: Mapping[User, int], slots: int) -> list[User]:
    """Whose requests of a queue still wait once everybody who may have a free slot has one."""
    together, free, left = held_by_owner(held), slots - sum(held.values()), list[User]()
    if free < 1:
        return list(waiting)
    most = _most(waiting, together, slots)
    for user in map(waiting.__getitem__, in_turn(waiting, held, {})):
        owner = owner_of(user)
        if free and (owner is None or together[owner] < most):
            together[owner] += 1
            free -= 1
        else:
            left.append(user)
    return left


def _most(waiting: Sequence[User], together: Mapping[User, int], slots: int) -> int:
    """How many slots one owner may hold now."""
    present = {owner for owner, count in together.items() if count} | set(map(owner_of, waiting))
    return slots - spare(slots) if len(present) == 1 else share(slots)


def share(places: int) -> int:
    """How many of these one person may take while others are there: half."""
    return max(1, places // 2)


def spare(places: int) -> int:
    """How many of these one person leaves free while nobody else is there: an eighth. Whoever comes
    need not wait until a reply ends."""
    return places // 8
