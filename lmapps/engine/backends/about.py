"""What a model is -> a sentence, kept apart from its values so that a page can translate it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class About:
    """A line for a person; `str` gives it in English."""

    words: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.words.format(**self.values)


def about_own(body: str, parameters: int, context: int) -> About:
    """A model that runs in this process."""
    return About(
        "a {body} of {millions} million parameters, {context} tokens of context",
        {"body": body, "millions": f"{parameters / 1e6:.1f}", "context": context},
    )


def about_remote(model: str, url: str, context: int) -> About:
    """A model of another server."""
    return About(
        "{model} at {url}, {context} tokens of context",
        {"model": model, "url": url, "context": context},
    )
