"""The four applications: prompts, examples made of records, and metrics."""

from __future__ import annotations

from typing import Any

import pytest

from lmapps import Passage
from lmapps.discovery import discover
from lmapps.plugin import Plugin

RECORDS: dict[str, dict[str, Any]] = {
    "chat": {
        "messages": [
            {"role": "user", "content": "What is a cat?"},
            {"role": "assistant", "content": "An animal."},
            {"role": "user", "content": "Tell me more."},
            {"role": "assistant", "content": "It purrs."},
        ]
    },
    "news": {"headline": "Rain falls", "body": "Rain fell.\n\nMore came.", "source": "wikinews"},
    "code": {"instruction": "Add two numbers.", "code": "def add(a, b):\n    return a + b\n"},
    "summarize": {"document": "A long text. " * 400, "summary": "A text.", "kind": "summary"},
}
PLUGINS = discover().plugins


@pytest.fixture(params=RECORDS)
def app(request: pytest.FixtureRequest) -> Plugin:
    return PLUGINS[request.param]


def test_each_has_a_form_examples_a_data_set_and_a_metric(app: Plugin) -> None:
    assert app.help and app.examples and app.has_dataset and app.metrics


def test_an_example_is_worded_by_the_prompt_function(app: Plugin) -> None:
    (example,) = app.examples_from([RECORDS[app.name]])
    conversation = app.conversation(example)
    asked = next(app.steps(app.validate({**example.fields})))
    if app.name != "summarize":  # live, a long text is asked for in parts
        assert conversation[:-1] == asked
    assert conversation[-1] == {"role": "assistant", "content": example.reply}
    assert all(0 <= value <= 1 for value in app.scores(example.reply, example).values())
    assert max(app.scores(example.reply, example).values()) == 1


def test_a_chat_is_one_conversation_and_a_persona_its_system_prompt() -> None:
    chat = PLUGINS["chat"]
    (example,) = chat.examples_from([RECORDS["chat"]])
    assert chat.conversation(example) == RECORDS["chat"]["messages"]
    with_persona = chat([{"role": "user", "content": "Hi"}], persona="A pirate.")
    assert with_persona[0] == {"role": "system", "content": "A pirate."}
    assert len(list(chat.own_examples())) > 100


def test_a_long_text_is_summarized_in_parts_until_it_fits() -> None:
    text = Passage("A sentence of five words. " * 40, budget=50)
    steps = PLUGINS["summarize"](text, "a headline")
    asked = next(steps)
    assert len(asked) == 4
    assert all(prompt.startswith("Summarize the text in one sentence.\n\nA") for prompt in asked)
    last = steps.send(["Short."] * 4)
    assert last == "Summarize the text in a headline.\n\n" + "\n".join(["Short."] * 4)
    with pytest.raises(StopIteration):
        steps.send("done")


def test_summaries_that_do_not_get_shorter_come_to_an_end() -> None:
    steps = PLUGINS["summarize"](Passage("word " * 200, budget=50), "a headline")
    asked, rounds = next(steps), 0
    while isinstance(asked, list):
        asked, rounds = steps.send(["word " * 49] * len(asked)), rounds + 1
    assert rounds < 10 and len(asked.split()) < 70


def test_the_prompts_say_what_was_filled_in() -> None:
    article = PLUGINS["news"]("Rain falls", "weather", "blog post", "a few paragraphs")
    assert article == (
        "Write a blog post about weather, a few paragraphs long.\nHeadline: Rain falls"
    )
    assert PLUGINS["code"]("Sort a list.").startswith("Write Python code.\nSort")


def test_a_program_too_long_for_a_small_model_is_left_out() -> None:
    record = {"instruction": "x", "code": "x = 1\n" * 1000}
    assert not list(PLUGINS["code"].examples_from([record]))
