"""What a model has done so far, in numbers: requests, tokens, seconds to the first token."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmapps.engine.request import Usage

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""The upper bounds of the histogram's classes; one more class takes what is slower."""


SUMS = (
    "accepted", "refused", "passes", "prompt_tokens", "reused_tokens", "read_tokens",
    "generated_tokens",
)  # fmt: skip


class Histogram:
    """How many times fell into each class, and their sum."""

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds


class Counts:
    """Written by one model, read by whoever wants to know."""

    def __init__(self) -> None:
        self.accepted = 0
        """Requests that were queued."""
        self.refused = 0
        """Requests for which the queue was full."""
        self.finished: Counter[str] = Counter()
        """Requests at their end, by `Finish`."""
        self.passes = 0
        """Forward passes of the model."""
        self.prompt_tokens = 0
        """Tokens of the prompts that were begun."""
        self.reused_tokens = 0
        """Of these, so many were in a state that was kept."""
        self.read_tokens = 0
        """And so many were read."""
        self.generated_tokens = 0
        self.first_token = Histogram()
        """Seconds from a request's arrival to its first token."""
        self.seconds_between_ends = 0.0
        """From one request's end to the next one's, averaged over about the last ten."""
        self.trouble: tuple[float, str] | None = None
        """When (of the monotonic clock) a request failed last that could not help it, and why."""
        self._last_end: float | None = None

    @classmethod
    def of(cls, several: Sequence[Counts]) -> Counts:
        """What several models have done together."""
        total = cls()
        for name in SUMS:
            setattr(total, name, sum(getattr(one, name) for one in several))
        for one in several:
            total.finished.update(one.finished.copy())  # in one go: its thread adds to it
            total.first_token.sum += one.first_token.sum
            pairs = zip(total.first_token.counts, one.first_token.counts, strict=True)
            total.first_token.counts = [mine + theirs for mine, theirs in pairs]
        gaps = [one.seconds_between_ends for one in several if one.seconds_between_ends]
        total.trouble = max((one.trouble for one in several if one.trouble), default=None)
        total.seconds_between_ends = 1 / sum(1 / gap for gap in gaps) if gaps else 0.0
        return total

    def add(self, usage: Usage) -> None:
        """Count what another server counted of a request."""
        self.prompt_tokens += usage.prompt_tokens
        self.reused_tokens += usage.reused
        self.read_tokens += usage.prompt_tokens - usage.reused
        self.generated_tokens += usage.completion_tokens

    def end(self, finish: str, now: float) -> None:
        """Count a request that ended at that time, in seconds."""
        self.finished[finish] += 1
        if self._last_end is not None:
            gap = now - self._last_end
            self.seconds_between_ends += 0.1 * (gap - self.seconds_between_ends)
        self._last_end = now
