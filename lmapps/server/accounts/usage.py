"""What somebody has had of what they may have -> the headers that say what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """What somebody has had, of what they may have; a limit of 0 is none."""

    requests: int
    requests_a_minute: int
    tokens: int
    tokens_a_day: int
    new_minute: int
    new_day: int
    """Seconds until each is counted from 0 again."""


def headers_of(usages: Sequence[Usage]) -> Mapping[str, str]:
    """What is left, by the names that OpenAI's clients know; the tightest limit counts."""
    headers: dict[str, str] = {}
    for kind, limit, used, again in (
        ("requests", "requests_a_minute", "requests", "new_minute"),
        ("tokens", "tokens_a_day", "tokens", "new_day"),
    ):
        limited = [usage for usage in usages if getattr(usage, limit)]
        if limited:
            tight = min(limited, key=lambda u: getattr(u, limit) - getattr(u, used))
            left = max(0, getattr(tight, limit) - getattr(tight, used))
            headers[f"x-ratelimit-limit-{kind}"] = str(getattr(tight, limit))
            headers[f"x-ratelimit-remaining-{kind}"] = str(left)
            headers[f"x-ratelimit-reset-{kind}"] = f"{getattr(tight, again)}s"
    return headers
