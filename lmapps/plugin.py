"""A prompt function -> `Plugin`: form, prompt, decoding, training examples and metric in one."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from lmapps.decoding import Decoding
from lmapps.errors import DataError, FieldError, PluginError, ReplyError
from lmapps.examples import Dataset, DatasetFunction, Example
from lmapps.fields import Field, Message, Messages, fields_of, split_docstring
from lmapps.options import (
    Languages,
    check_function,
    check_names,
    check_options,
    checked_languages,
)
from lmapps.passage import Passage
from lmapps.reply import ReplyForm, reply_form
from lmapps.sentence import named
from lmapps.steps import Steps, is_conversation, plugin_boundary, steps_of

Metric = Callable[[Any, Any, dict[str, Any]], float]


class Plugin:
    """One application. Called like the function that it was made from."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        title: str | None = None,
        decoding: Decoding | None = None,
        reply: Any = None,
        finish: Callable[[str], str] | None = None,
        examples: Sequence[Sequence[Any]] = (),
        labels: Mapping[str, str] | None = None,
        languages: Languages | None = None,
    ) -> None:
        check_function(function, "a plugin")
        check_options(title, decoding, finish, examples, labels, languages)
        self.function = function
        self.name: str = function.__name__
        self.title = title or self.name.replace("_", " ").capitalize()
        self.help, helps = split_docstring(inspect.getdoc(function) or "")
        self.fields: tuple[Field, ...] = fields_of(function, labels, helps)
        self.languages = checked_languages(languages or {}, self.words)
        self.decoding = decoding or Decoding()
        self.reply_form = reply_form(reply)
        self.finish = finish or self.reply_form.finish
        if self.messages_field and type(self.reply_form) is not ReplyForm:
            raise PluginError(f"{self.name} is a chat, which replies text: leave out reply={reply}")
        self.metrics: dict[str, Metric] = {}
        self._datasets: list[Dataset] = []
        self.examples = [self._checked_example(list(values)) for values in examples]

    def __call__(self, *args: Any, **fields: Any) -> Any:
        return self.function(*args, **fields)

    def __repr__(self) -> str:
        return f"<plugin {self.name}>"

    # What an author adds.

    @overload
    def dataset(self, function: DatasetFunction) -> DatasetFunction: ...
    @overload
    def dataset(self, *, fields: Sequence[str]) -> Callable[[DatasetFunction], DatasetFunction]: ...
    def dataset(
        self, function: DatasetFunction | None = None, *, fields: Sequence[str] = ()
    ) -> Any:
        """Decorate a generator of `(fields, reply)` or `(fields, reply, reference)`.

        The reply is a text, or a dataclass where the plugin replies one.

        With one parameter it is given each record of `--data NAME=FILE`, which must have the
        record fields named here. Without a parameter it yields examples of its own.
        """

        def add(function: DatasetFunction) -> DatasetFunction:
            check_function(function, "a data set")
            takes_record = len(inspect.signature(function).parameters) > 0
            self._datasets.append(Dataset(function, tuple(fields), takes_record))
            return function

        return add if function is None else add(function)

    def metric(self, function: Metric) -> Metric:
        """Decorate `(reply, reference, fields) -> score`; higher is better.

        The reply is a text, or what `reply` makes of it: a text of the Literal, a dataclass.
        """
        check_function(function, "a metric")
        self.metrics[function.__name__] = function
        return function

    # What the host asks.

    @property
    def has_dataset(self) -> bool:
        return bool(self._datasets)

    @property
    def _data_set(self) -> str:
        return f"the data set of plugin {self.name!r}"

    @property
    def words(self) -> list[str]:
        """The texts of the form: what `languages` may translate."""
        words = [self.title, self.help]
        for field in self.fields:
            words += [field.label, field.help, *field.type.words()]
        return list(dict.fromkeys(word for word in words if word))

    @property
    def passage_field(self) -> str | None:
        """The field that holds a long text, if there is one."""
        return next((field.name for field in self.fields if field.kind == "passage"), None)

    @property
    def messages_field(self) -> str | None:
        """The field that holds a conversation, if there is one: then this is a chat."""
        return next((field.name for field in self.fields if field.kind == "messages"), None)

    def validate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values from outside -> arguments of the function. Raises `FieldError`."""
        known = [field.name for field in self.fields]
        for name in values:
            if name not in known:
                raise FieldError(
                    f"{self.name} has no field {name!r}; its fields: {', '.join(known)}"
                )
        arguments = {}
        for field in self.fields:
            if field.name in values:
                arguments[field.name] = field.parse(values[field.name])
            elif field.required:
                plugin, name = named(self.name, self.title), named(field.name, field.label)
                raise FieldError("{plugin} needs the field {name!r}", plugin=plugin, name=name)
            else:
                arguments[field.name] = field.parse(field.default)
        return arguments

    def input_schema(self) -> dict[str, Any]:
        """JSON schema of the fields."""
        return {
            "type": "object",
            "title": self.title,
            "description": self.help,
            "properties": {field.name: field.schema() for field in self.fields},
            "required": [field.name for field in self.fields if field.required],
            "additionalProperties": False,
        }

    def steps(self, arguments: Mapping[str, Any]) -> Steps:
        """What to ask the model, whether the function returns a prompt or yields several."""
        with plugin_boundary(f"plugin {self.name!r}", self.function):
            yield from steps_of(self.name, self.function(**arguments))

    def asked(self, values: Mapping[str, Any]) -> Messages | list[Messages]:
        """What it asks first, where the model can read a text of any length."""
        arguments = self.validate(values)
        for name, value in arguments.items():
            if isinstance(value, Passage):
                arguments[name] = Passage(value, budget=sys.maxsize)
        steps = self.steps(arguments)
        asked = next(steps)
        steps.close()
        return asked

    def conversation(self, example: Example) -> Messages:
        """An example as the model sees it: the prompt as in a live request, then the reply."""
        prompt = self.asked(example.fields)  # training shortens what is too long by itself
        if not is_conversation(prompt):
            raise PluginError(
                f"plugin {self.name!r} asks for several replies on an example; it is trained on "
                f"its single prompt, so leave out or shorten: {str(example.fields)[:80]}"
            )
        return [*prompt, {"role": "assistant", "content": example.reply}]

    def finished(self, reply: str) -> str:
        """The whole reply as the person keeps it."""
        with plugin_boundary(f"plugin {self.name!r}, in finish,", self.function):
            return self.finish(reply)

    def scores(self, reply: str, example: Example) -> dict[str, float]:
        """Each metric's score of a reply; 0 for one that has not the plugin's form.

        Raises `PluginError` for a metric that fails, or whose score is no finite number.
        """
        try:
            value = self.reply_form.parse(reply)
        except ReplyError:
            return dict.fromkeys(self.metrics, 0.0)
        with plugin_boundary(f"a metric of plugin {self.name!r}", self.function):
            scores = {
                name: float(metric(value, example.reference, example.fields))
                for name, metric in self.metrics.items()
            }
            for name, number in scores.items():
                if not math.isfinite(number):
                    raise PluginError(
                        f"the metric {name!r} of plugin {self.name!r} gave {number}: return a "
                        "finite number, for an empty reply too"
                    )
            return scores

    def own_examples(self) -> Iterator[Example]:
        """The examples in the plugin's own file."""
        for dataset in self._datasets:
            if not dataset.takes_record:
                yield from dataset.examples(self._data_set, self.reply_form)

    def examples_from(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Example]:
        """Examples made of records. Raises `DataError` for one without the fields it needs."""
        datasets = [dataset for dataset in self._datasets if dataset.takes_record]
        for number, record in enumerate(records, start=1):
            if not datasets:
                raise DataError(f"plugin {self.name!r} has no data set that takes records")
            for dataset in datasets:
                missing = [name for name in dataset.needs if name not in record]
                if missing:
                    raise DataError(
                        f"plugin {self.name!r}: record {number} has no field {missing[0]!r}; it "
                        f"needs {', '.join(dataset.needs)} (the record has {', '.join(record)})"
                    )
                yield from dataset.examples(self._data_set, self.reply_form, record)

    def _checked_example(self, values: list[Any]) -> list[Any]:
        """One row for the form: a value for each field, in order, at least the required ones."""
        if len(values) > len(self.fields):
            raise PluginError(
                f"example {values!r} has {len(values)} values for {len(self.fields)} fields"
            )
        names = [field.name for field in self.fields]
        try:
            self.validate(dict(zip(names, values, strict=False)))
        except FieldError as error:
            raise PluginError(f"example {values!r} does not fit: {error}") from None
        rest = [field.default for field in self.fields[len(values) :]]
        return values + rest


@overload
def plugin(function: Callable[..., Any]) -> Plugin: ...
@overload
def plugin(
    *,
    title: str | None = None,
    decoding: Decoding | None = None,
    reply: Any = None,
    finish: Callable[[str], str] | None = None,
    examples: Sequence[Sequence[Any]] = (),
    labels: Mapping[str, str] | None = None,
    languages: Languages | None = None,
) -> Callable[[Callable[..., Any]], Plugin]: ...
def plugin(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a prompt function an application.

    title     the tab's name (the function's name, if not given)
    decoding  how replies are sampled, where a person does not change it
    reply     what comes back: a Literal of texts or a dataclass, which the model is held to, or
              Code(language); text, if not given
    finish    sees the whole reply when it ends; what it returns replaces what was streamed
    examples  rows of values for the form, in the order of the fields
    labels    what a field is called, where its name in words does not do: {"text": "Your letter"}
    languages the form's texts in other languages: {"zh": {"Your letter": "您的信"}}; what is not
              there is shown as it is

    Raises `PluginError` for a field without a widget or an example that does not fit.
    """
    check_names(options)
    if function is not None:
        return Plugin(function, **options)
    return lambda decorated: Plugin(decorated, **options)


__all__ = ["Dataset", "Example", "Message", "Messages", "Metric", "Plugin", "Steps", "plugin"]
