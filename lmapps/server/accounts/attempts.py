"""Failed logins -> how long somebody must wait before trying again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping

SPAN_SECONDS = 900.0
"""A failure counts for so long."""
REMEMBERED = 50_000
"""Names and addresses with failures; the oldest are forgotten first."""


def limits_of(name: str, address: str) -> Mapping[Hashable, int]:
    """Failures that are let through in a quarter of an hour: by one address for one name, by one
    address for all, and for one name by all. The last is large, so that nobody can easily lock
    somebody else out."""
    return {(name, address): 5, ("", address): 50, (name, ""): 200}


class Attempts:
    """The failures of the last quarter of an hour. Safe from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[Hashable, deque[float]] = OrderedDict()
        self._turn = threading.Lock()

    def begin(self, limits: Mapping[Hashable, int]) -> float:
        """Seconds until an attempt is let through; 0 = now, and it counts as a failure until
        `succeeded` takes that back: many at the same time are counted too."""
        with self._turn:
            wait = max(self._wait(key, most) for key, most in limits.items())
            if not wait:
                self._count(limits)
            return wait

    def succeeded(self, limits: Mapping[Hashable, int]) -> None:
        """Forget the failures of this name at this address, and the last one of the others."""
        with self._turn:
            for number, key in enumerate(limits):
                failures = self._failures.get(key)
                if failures and number == 0:
                    failures.clear()
                elif failures:
                    failures.pop()

    def _count(self, limits: Mapping[Hashable, int]) -> None:
        for key, most in limits.items():
            self._failures.setdefault(key, deque(maxlen=most)).append(self._clock())
            self._failures.move_to_end(key)
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def _wait(self, key: Hashable, most: int) -> float:
        failures = self._failures.get(key)
        if failures is None or len(failures) < most:
            return 0.0
        return max(0.0, failures[0] + SPAN_SECONDS - self._clock())
