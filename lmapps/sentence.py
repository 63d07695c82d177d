"""A text with {names} and their values -> a sentence in English that a page can tell otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Sentence(str):
    """`Sentence("{count} requests are waiting already", count=3)`.

    It is the English text: what an error made of it says in a log, at the command line and in the
    API. The page asks for its `template` in the visitor's language, and fills in the `values`,
    of which some may be sentences themselves, or errors.
    """

    template: str
    values: Mapping[str, Any]

    def __new__(cls, template: str, /, **values: Any) -> Sentence:
        made = super().__new__(cls, template.format(**values) if values else template)
        made.template, made.values = template, values
        return made


def named(name: str, label: str) -> Sentence:
    """What is called by its name everywhere but on the page, which has a label for it."""
    made = Sentence(name)
    made.template = label
    return made
