"""What a data set of a plugin yields -> `Example`s: filled-in fields, and the reply wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lmapps.errors import PluginError
from lmapps.reply import ReplyForm
from lmapps.steps import plugin_boundary

DatasetFunction = Callable[..., Iterable[tuple[Any, ...]]]


@dataclass(frozen=True)
class Example:
    """What a person might fill in, and the reply that is wanted."""

    fields: dict[str, Any]
    reply: str
    reference: Any
    """What the metric gets: the reply itself, or something else, such as tests for code."""
    record: Mapping[str, Any] | None = None
    """What it was made of; None for the plugin's own."""


@dataclass(frozen=True)
class Dataset:
    """A function that makes examples, and the record fields that it needs."""

    function: DatasetFunction
    needs: tuple[str, ...]
    takes_record: bool

    def examples(
        self, what: str, form: ReplyForm, record: Mapping[str, Any] | None = None
    ) -> Iterator[Example]:
        """What it makes, of a record where it takes one; `what` is its name in an error."""
        with plugin_boundary(what, self.function):
            made = self.function() if record is None else self.function(record)
            if not isinstance(made, Iterable):
                raise PluginError(f"{what} yields examples or returns a list of them, got {made!r}")
            for values in made:
                if not _is_example(values):
                    raise PluginError(
                        f"{what} yields (fields, reply) or (fields, reply, reference), where "
                        f"fields is a dict, got {str(values)[:60]!r}"
                    )
                fields, reply, *reference = values
                text = form.text_of(reply)
                yield Example(fields, text, reference[0] if reference else reply, record)


def _is_example(values: Any) -> bool:
    is_row = isinstance(values, tuple | list) and len(values) in (2, 3)
    return is_row and isinstance(values[0], dict)
