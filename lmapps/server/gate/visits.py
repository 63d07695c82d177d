"""Requests at their end -> counts by area and status, for /metrics."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter

SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
"""Bounds of the histogram of durations."""
_AREAS = (
    ("/v1/", "api"),
    ("/apps", "apps"),
    ("/gradio_api/file=", "files"),
    ("/gradio_api/upload", "files"),
    ("/gradio_api/heartbeat", "live"),
    ("/gradio_api/", "events"),
    ("/plugins/version", "live"),
    ("/runs/version", "live"),
    *((f"/{name}", "assets") for name in ("assets", "static", "svelte", "favicon", "theme.css")),
    *((f"/{name}", "monitor") for name in ("health", "ready", "metrics")),
)


def area_of(path: str) -> str:
    """The part of the server that answers a path: few words, so that a log can be counted by it."""
    return next((area for start, area in _AREAS if path.startswith(start)), "page")


class Visits:
    """How many requests ended how, and how long they took."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, int]] = Counter()
        """By area and status; status 0 = nobody was there any more to be answered."""
        self.durations = [0] * (len(SECONDS) + 1)
        self.seconds = 0.0
        self._turn = threading.Lock()

    def count(self, area: str, status: int, seconds: float) -> None:
        with self._turn:
            self.ended[area, status] += 1
            self.durations[bisect_left(SECONDS, seconds)] += 1
            self.seconds += seconds
