"""Seconds that reading and decoding took -> how many prompt tokens to read before each step."""

from __future__ import annotations

PREFILL_TOKENS = 512
"""The most prompt tokens read in one step."""
FEWEST_TOKENS = 4
START_TOKENS = 64


class Pace:
    """Reading may hold up the streams for as long as one or two decoding steps take, not more.

    What a chunk costs depends on the model and machine (a Transformer reads dozens of tokens in
    the time of one step, a recurrent body two or three), so that it is found by trying.
    """

    def __init__(self) -> None:
        self.tokens = START_TOKENS
        """How many prompt tokens to read next, while others are decoded."""

    def took(self, read_tokens: int, read_seconds: float, decode_seconds: float) -> None:
        """Learn from a round in which so many tokens were read beside a decoding step."""
        if read_seconds > 2 * decode_seconds:
            self.tokens = max(FEWEST_TOKENS, self.tokens // 2)
        elif read_tokens >= self.tokens and read_seconds <= decode_seconds:
            self.tokens = min(PREFILL_TOKENS, self.tokens * 2)
