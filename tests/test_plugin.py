"""A plugin is one function: form, prompt, examples and metric come from it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmapps import (
    Bounds,
    Messages,
    Passage,
    code_block,
    code_of,
    plugin,
    rouge_l,
    whole_sentences,
    word_f1,
)
from lmapps.errors import DataError, FieldError, PluginError
from lmapps.metrics import parses_as_python
from lmapps.plugin import Example, Plugin


@plugin(title="Poem", examples=[["rain"], ["snow", 3, "glad"]])
def poem(
    topic: str,
    lines: Annotated[int, Bounds(1, 9)] = 4,
    mood: Literal["sad", "glad"] = "sad",
    rhyme: bool = False,
    weight: float = 0.5,
) -> str:
    """Write a poem."""
    return f"A {mood} poem of {lines} lines about {topic}, rhyming: {rhyme}."


def test_the_form_follows_from_the_signature() -> None:
    kinds = {field.name: field.kind for field in poem.fields}
    assert kinds == {
        "topic": "line", "lines": "integer", "mood": "choice", "rhyme": "flag", "weight": "number",
    }  # fmt: skip
    schema = poem.input_schema()
    assert schema["required"] == ["topic"]
    assert schema["properties"]["lines"] == {
        "type": "integer", "title": "Lines", "minimum": 1, "maximum": 9, "default": 4,
    }  # fmt: skip
    assert schema["properties"]["mood"]["enum"] == ["sad", "glad"]
    assert poem.examples == [["rain", 4, "sad", False, 0.5], ["snow", 3, "glad", False, 0.5]]


def test_a_plugin_is_called_like_its_function_and_needs_no_model() -> None:
    assert poem("rain").endswith("about rain, rhyming: False.")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "poem needs the field 'topic'"),
        ({"topic": "  "}, "topic is empty"),
        ({"topic": 3}, "topic must be text, got 3"),
        ({"topic": "x", "lines": 10}, "lines must be between 1 and 9, got 10"),
        ({"topic": "x", "lines": 1.5}, "lines must be a whole number between 1 and 9, got 1.5"),
        (
            {"topic": "x", "lines": "many"},
            "lines must be a whole number between 1 and 9, got 'many'",
        ),
        ({"topic": "x", "lines": True}, "lines must be a whole number between 1 and 9, got True"),
        ({"topic": "x", "mood": "odd"}, "mood must be one of 'sad', 'glad', got 'odd'"),
        ({"topic": "x", "mood": ["sad"]}, "mood must be one of"),
        ({"topic": "x", "rhyme": "perhaps"}, "rhyme must be true or false, got 'perhaps'"),
        ({"topic": "x", "weight": "nan"}, "weight must be a number, got 'nan'"),
        ({"topic": "x", "length": 3}, "poem has no field 'length'; its fields: topic, lines"),
    ],
)
def test_a_wrong_value_is_named_with_the_way_out(values: dict[str, Any], words: str) -> None:
    with pytest.raises(FieldError, match=words):
        poem.validate(values)


@plugin
def talk(messages: Messages, tone: str = "") -> Messages:
    return [{"role": "system", "content": tone}, *messages] if tone else messages


@pytest.mark.parametrize(
    "value", [[], "", 3, [{"role": "robot", "content": "x"}], [{"role": "user"}], ["x"], None]
)
def test_a_conversation_is_checked(value: Any) -> None:
    with pytest.raises(FieldError, match="messages must be"):
        talk.validate({"messages": value})


def test_a_text_is_a_conversation_of_one_turn() -> None:
    assert talk.validate({"messages": "Hi"})["messages"] == [{"role": "user", "content": "Hi"}]


@plugin
def digest(text: Passage) -> Any:
    while not text.fits:
        notes = yield [f"Note: {part}" for part in text.parts()]
        text = text.with_text(" ".join(notes))
    yield f"Whole: {text}"


def test_a_generator_is_tested_with_send_and_without_a_model() -> None:
    steps = digest(Passage("one two three four five six", budget=3))
    assert next(steps) == ["Note: one two three", "Note:  four five six"]
    assert steps.send(["a", "b"]) == "Whole: a b"


def test_steps_are_conversations_whatever_the_function_returns() -> None:
    steps = digest.steps({"text": Passage("one two three four", budget=2)})
    first: Any = next(steps)
    assert [turns[0]["content"] for turns in first] == ["Note: one two", "Note:  three four"]
    assert steps.send(["a", "b"]) == [{"role": "user", "content": "Whole: a b"}]
    with pytest.raises(StopIteration):
        steps.send(["done"])
    assert next(talk.steps({"messages": [{"role": "user", "content": "Hi"}], "tone": "kind"})) == [
        {"role": "system", "content": "kind"}, {"role": "user", "content": "Hi"},
    ]  # fmt: skip


def made(function: Any, **options: Any) -> Plugin:
    return plugin(**options)(function) if options else plugin(function)


def test_a_plugin_that_fails_is_named() -> None:
    def crash(text: str) -> str:
        raise ZeroDivisionError("by zero")

    def odd(text: str) -> Any:
        return 7

    def none(text: str) -> Any:
        return
        yield

    for function, words in (
        (crash, "plugin 'crash' failed: ZeroDivisionError: by zero"),
        (odd, "plugin 'odd' returned '7'"),
        (none, "plugin 'none' yielded no prompt"),
    ):
        with pytest.raises(PluginError, match=words):
            next(made(function).steps({"text": "x"}))


def test_no_prompts_side_by_side_are_answered_with_no_replies() -> None:
    got: list[Any] = []

    def none(text: str) -> Any:
        got.append((yield []))
        yield f"After: {text}"
        got.append((yield []))

    steps = made(none).steps({"text": "x"})
    assert next(steps) == [{"role": "user", "content": "After: x"}] and got == [[]]
    with pytest.raises(StopIteration):
        steps.send(["reply"])
    assert got == [[], []]

    def nothing(text: str) -> Any:
        yield []

    with pytest.raises(PluginError, match="plugin 'nothing' yielded no prompt"):
        next(made(nothing).steps({"text": "x"}))


def test_a_signature_without_a_widget_is_refused() -> None:
    def many(*texts: str) -> str:
        return ""

    def taken(stream: str) -> str:
        return ""

    def low(number: Annotated[int, Bounds(1, 3)] = 9) -> str:
        return ""

    for function, words in (
        (many, "name each field"),
        (taken, "'stream' is taken"),
        (low, "number must be between 1 and 3, got 9"),
    ):
        with pytest.raises(PluginError, match=words):
            made(function)
    with pytest.raises(PluginError, match="2 values for 1 fields"):
        made(one, examples=[["a", "b"]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"title": 5}, 'title must be a text, "Poem", got 5'),
        ({"decoding": {"temperature": 1}}, r"decoding must be a Decoding, .*, got {'temperature'"),
        ({"finish": "x"}, "finish must be a function of the reply, got 'x'"),
        ({"labels": ["text"]}, "labels must be field names and texts, .*got"),
        ({"labels": {"text": 1}}, "labels must be field names and texts, .*got"),
        ({"languages": "zh"}, "languages must be texts by language, .*got 'zh'"),
        ({"languages": {"zh": ["x"]}}, "languages must be texts by language, .*got"),
        ({"examples": ["rain"]}, r"a row of values.*\[\['rain'\]\], got \['rain'\]"),
        ({"examples": [5]}, r"a row of values.*\[\[5\]\], got \[5\]"),
        ({"examples": 5}, r"a row of values.*\[\[5\]\], got 5"),
        ({"titel": "x"}, "@plugin has no option 'titel'; known: title, decoding, reply"),
    ],
)
def test_an_option_of_another_type_is_named_with_its_value_and_the_way_out(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(PluginError, match=words):
        made(one, **options)


def test_only_a_function_that_is_called_with_names_and_not_awaited_is_a_plugin() -> None:
    async def later(text: str) -> str:
        return text

    async def several(text: str) -> Any:
        yield text

    def by_place(text: str, /) -> str:
        return text

    odd: Any = "Poem"
    for function, words in (
        (later, "a plugin later is async: write def"),
        (several, "a plugin several is async: write def"),
        (by_place, "the field 'text' stands before a /"),
        (odd, "a plugin must be a function, got 'Poem'"),
    ):
        with pytest.raises(PluginError, match=words):
            made(function)


def one(text: str) -> str:
    return text


def test_examples_come_from_the_own_file_and_from_records() -> None:
    echo = made(one)

    @echo.dataset
    def own() -> Any:
        yield {"text": "a"}, "A"

    @echo.dataset(fields=("small", "big"))
    def pairs(record: Any) -> Any:
        yield {"text": record["small"]}, record["big"], "the reference"

    @echo.metric
    def length(reply: str, reference: str, fields: dict[str, Any]) -> float:
        return len(reply)

    assert [example.reply for example in echo.own_examples()] == ["A"]
    (example,) = echo.examples_from([{"small": "b", "big": "B"}])
    assert (example.fields, example.reply, example.reference) == (
        {"text": "b"},
        "B",
        "the reference",
    )
    assert echo.conversation(example) == [
        {"role": "user", "content": "b"}, {"role": "assistant", "content": "B"},
    ]  # fmt: skip
    assert echo.scores("four", example) == {"length": 4.0}
    with pytest.raises(DataError, match="record 1 has no field 'big'; it needs small, big"):
        list(echo.examples_from([{"small": "b"}]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_finite_number_is_refused_with_its_metric(value: float) -> None:
    echo = made(one)

    @echo.metric
    def length(reply: str, reference: str, fields: dict[str, Any]) -> float:
        return value

    words = f"the metric 'length' of plugin 'one' gave {value}: return a finite number"
    with pytest.raises(PluginError, match=words):
        echo.scores("four", Example({"text": "a"}, "A", "A"))


def broken_list() -> Any:
    record: dict[str, str] = {}
    return [({"text": "a"}, record["boom"])]


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (broken_list, "the data set of plugin 'one' failed: KeyError: 'boom' .*test_plugin.py"),
        (lambda: None, "the data set of plugin 'one' yields examples or returns a list .*got None"),
        (lambda: [5], r"yields \(fields, reply\) or \(fields, reply, reference\).*got '5'"),
        (lambda: [({"text": "a"},)], "yields .*got "),
        (lambda: [({"text": "a"}, "A", "B", "C")], "yields .*got "),
        (lambda: ["ab"], "yields .*got 'ab'"),
        (lambda: [("a", "A")], "where fields is a dict, got "),
    ],
)
def test_a_data_set_that_fails_or_gives_no_examples_is_a_sentence(dataset: Any, words: str) -> None:
    echo = made(one)
    echo.dataset(dataset)
    with pytest.raises(PluginError, match=words):
        list(echo.own_examples())
    with_record = made(one)
    with_record.dataset(lambda record: dataset())
    with pytest.raises(PluginError, match=words):
        list(with_record.examples_from([{}]))


def test_a_data_set_or_a_metric_that_is_async_is_refused() -> None:
    async def later(*args: Any) -> Any:
        return args

    with pytest.raises(PluginError, match="a data set later is async"):
        made(one).dataset(later)
    with pytest.raises(PluginError, match="a metric later is async"):
        made(one).metric(later)


@given(st.text(max_size=400), st.integers(1, 40))
def test_the_parts_of_a_passage_join_to_it_and_fit(text: str, budget: int) -> None:
    parts = Passage(text, measure=len, budget=budget).parts()
    assert "".join(parts) == text
    assert all(len(part) <= budget for part in parts)


def test_a_passage_is_cut_at_paragraphs_and_sentences() -> None:
    text = "One is here. Two is there.\n\nThree came. 四来了。五也来了。"
    parts = Passage(text, measure=len, budget=30).parts()
    assert parts == ["One is here. Two is there.\n\n", "Three came. 四来了。五也来了。"]
    assert Passage(text, measure=len, budget=16).parts()[:2] == [
        "One is here. ",
        "Two is there.\n\n",
    ]


@pytest.mark.parametrize(
    ("reply", "tidy"),
    [
        ("One. Two is not", "One."),
        ("No end at all ", "No end at all"),
        ('He said "Go!" and', 'He said "Go!"'),
        ("天气很好。我们去", "天气很好。"),
        ("It costs 3.50 euros. Or", "It costs 3.50 euros."),
    ],
)
def test_whole_sentences_drops_what_is_unfinished(reply: str, tidy: str) -> None:
    assert whole_sentences(reply) == tidy


def test_code_blocks_are_closed_and_added() -> None:
    assert code_block("```python\nx = 1") == "```python\nx = 1\n```"
    assert code_block("x = 1") == "```\nx = 1\n```"
    assert code_block("```\nx\n```") == "```\nx\n```"


def test_code_is_taken_out_of_its_block_and_a_lone_closing_fence_is_cut() -> None:
    assert code_of("So:\n```python\nx = 1\n```\nDone.") == "x = 1\n"
    assert code_of("```\nx = 1") == "x = 1"
    assert code_of("x = 1\n```") == code_of("x = 1\n```\n") == "x = 1\n"
    assert code_of("x = 1") == "x = 1" and code_of("```\n") == ""


def test_metrics_by_hand() -> None:
    assert rouge_l("the cat sat", "the cat sat on the mat") == pytest.approx(2 * 3 / 9)
    assert rouge_l("", "") == rouge_l("a", "b") == 0
    assert word_f1("mat the on", "the mat") == pytest.approx(0.8)
    chinese = "天气很好", "今天天气很好。"
    assert rouge_l(*chinese) == word_f1(*chinese) == pytest.approx(2 * 4 / 10)
    assert parses_as_python("```python\nx = 1\n```") == 1
    assert parses_as_python("x = = 1") == parses_as_python("```\n```") == 0
