"""Seconds that reading and decoding took -> how many prompt tokens to read before the next step."""

from __future__ import annotations

from collections import deque

READING_STEPS = 1.75
"""Reading may take so many decoding steps: two, less what is measured badly."""
UNNOTICED = 0.004
"""Seconds that reading may take in any case: a small model's step is shorter than a millisecond,
and two of them are hardly more than a pass needs for itself. Beside one stream of a 10M model in
int8 the first token after a prompt of 1,024 comes in 0.13 s so, in pieces of two in 0.71 s."""
FEWEST_TOKENS = 2
"""These are always read: to read one token takes no longer than a decoding step."""
NEWEST = 0.5
"""What the newest pass weighs among all that were measured."""
MOST_SLOWER = 2
"""A pass that took longer than so many times what it should have was disturbed."""


class Pace:
    """Between two tokens of a stream at most two decoding steps' time is spent on reading, or what
    nobody notices, where that is longer.

    A pass over n tokens takes a part for itself, which is no longer than a decoding step, and a
    part for each token: both differ between models and machines, and neither is known. So the
    passes are averaged, which gives a point of that line, and from there one goes the safe way: a
    longer pass is taken to be longer in proportion, a shorter one to be shorter in what exceeds
    a decoding step.
    """

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0
        """Of a pass, on average."""
        self._steps: deque[tuple[int, float]] = deque(maxlen=2)
        """Rows and seconds of the last decoding steps: two, since one may have been disturbed."""

    def read(self, tokens: int, seconds: float) -> None:
        """Learn from a pass."""
        if self._seconds:
            usual = self._seconds * max(1, tokens / self._tokens)
            seconds = min(seconds, MOST_SLOWER * usual)
        weight = NEWEST if self._tokens else 1
        self._tokens += weight * (tokens - self._tokens)
        self._seconds += weight * (seconds - self._seconds)

    def decoded(self, rows: int, seconds: float) -> None:
        """Learn from a step by one token in so many rows."""
        self._steps.append((rows, seconds))

    def tokens(self, rows: int, read: int, spent: float, most: int) -> int:
        """How many tokens to read in the next pass.

        rows   requests whose next tokens wait for it
        read   prompt tokens that were read since their last ones
        spent  seconds since then: for these, and for states that were kept or given back
        most   no more than these
        """
        if not rows:
            return most
        step = self._step(rows)
        fitting = 0.0 if step is None or not self._tokens else self._fitting(step, spent)
        least = 0 if read or (step is not None and spent > step) else FEWEST_TOKENS
        return int(min(most, max(fitting + 0.25, least)))  # of few tokens, half a one is much

    def _step(self, rows: int) -> float | None:
        """Seconds of a decoding step, where they are known. Of fewer rows than the last ones it
        will be shorter, at most in proportion."""
        if len(self._steps) < 2:
            return None
        return min(seconds * min(1, rows / before) for before, seconds in self._steps)

    def _fitting(self, step: float, spent: float) -> float:
        left = max(READING_STEPS * step, UNNOTICED) - spent
        if left >= self._seconds:
            return self._tokens * left / self._seconds if self._seconds else float("inf")
        if left > step:
            return self._tokens * (left - step) / (self._seconds - step)
        return 0
