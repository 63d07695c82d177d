"""A plugin on an engine: parts, notices, overflow, cancelling."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmapps import Decoding, Messages, Passage, plugin
from lmapps.engine.application import Application, Clear, Done, Event, Notice, Progress, Text
from lmapps.engine.context import fit_conversation
from lmapps.engine.engine import Engine
from lmapps.errors import FieldError, PluginError, PromptTooLong
from lmapps.evaluation.tasks import score
from lmapps.model.checkpoint import Checkpoint
from lmapps.plugin import Example, Plugin

SHORT = Decoding(temperature=1, seed=1, max_new_tokens=12)


@plugin(decoding=SHORT)
def talk(messages: Messages) -> Messages:
    return messages


@plugin(decoding=SHORT, finish=str.upper)
def shout(text: Passage) -> str:
    return f"Say: {text}"


@plugin(decoding=SHORT)
def digest(text: Passage) -> Any:
    if not text.fits:
        notes = yield [f"Note: {part}" for part in text.parts()]
        assert all(isinstance(note, str) for note in notes)
        yield f"Notes: {len(notes)}"
    else:
        yield f"Whole: {text}"


@pytest.fixture
def engine(tiny_checkpoint: Callable[[str], Checkpoint]) -> Iterator[Engine]:
    with Engine(tiny_checkpoint("gru")) as engine:
        yield engine


def events_of(app: Plugin, engine: Engine, values: dict[str, Any]) -> list[Event]:
    async def collect() -> list[Event]:
        return [event async for event in Application(app, engine).events(values)]

    return asyncio.run(collect())


def turns(count: int, words: str = "the cat sat on the mat") -> Messages:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": f"{n} {words}"} for n in range(count)]


def test_text_is_streamed_and_finish_tidies_the_whole(engine: Engine) -> None:
    events = events_of(shout, engine, {"text": "hello"})
    streamed = "".join(event.text for event in events if isinstance(event, Text))
    done = events[-1]
    assert isinstance(done, Done)
    assert done.reply == streamed.upper()
    assert 0 < done.completion_tokens <= 12 and done.prompt_tokens > 5


def test_a_long_text_goes_in_parts_that_fit_and_the_person_sees_how_far(engine: Engine) -> None:
    asked: list[int] = []
    stream = engine.stream
    engine.stream = lambda ids, *rest: asked.append(len(ids)) or stream(ids, *rest)  # type: ignore
    events = events_of(digest, engine, {"text": "The dog ran after the cat. " * 40})
    progress = [event for event in events if isinstance(event, Progress)]
    total = progress[0].total
    assert total > 3
    assert [event.done for event in progress] == list(range(total + 1))
    assert all(length + 12 <= engine.context for length in asked)
    assert max(asked) > engine.context / 2, "parts should be about as long as fits"
    assert isinstance(events[total + 1], Clear)
    assert isinstance(events[-1], Done)


def test_a_short_text_goes_whole(engine: Engine) -> None:
    assert not any(isinstance(e, Progress) for e in events_of(digest, engine, {"text": "A cat."}))


def test_an_overflowing_chat_drops_its_oldest_turns_and_says_so(engine: Engine) -> None:
    events = events_of(talk, engine, {"messages": turns(21)})
    notice = events[0]
    assert isinstance(notice, Notice) and "oldest" in notice.text
    assert isinstance(events[-1], Done)
    assert events[-1].prompt_tokens + 12 <= engine.context


def test_what_is_left_of_a_conversation_keeps_the_system_prompt_and_begins_with_the_user(
    tiny_checkpoint: Callable[[str], Checkpoint],
) -> None:
    template = tiny_checkpoint("gru").template
    system: Messages = [{"role": "system", "content": "Be brief."}]
    messages = [*system, *turns(21)]
    ids, left_out = fit_conversation(messages, template, 128, SHORT)
    assert left_out > 0 and left_out % 2 == 0
    assert ids == template.prompt_ids([*system, *messages[1 + left_out :]])
    assert fit_conversation(turns(1), template, 128, SHORT)[1] == 0


def test_anything_else_that_overflows_is_refused_with_the_length_and_the_limit(
    engine: Engine,
) -> None:
    with pytest.raises(PromptTooLong, match=r"the prompt has \d+ tokens, the model takes at most"):
        events_of(shout, engine, {"text": "word " * 500})
    with pytest.raises(PromptTooLong):
        events_of(talk, engine, {"messages": turns(1, "word " * 500)})


def test_errors_of_the_form_and_of_the_plugin_come_before_any_text(engine: Engine) -> None:
    with pytest.raises(FieldError):
        events_of(shout, engine, {})

    @plugin
    def crash(text: str) -> str:
        raise KeyError("x")

    with pytest.raises(PluginError, match="plugin 'crash' failed: KeyError"):
        events_of(crash, engine, {"text": "x"})


@pytest.mark.parametrize("text", ["A cat.", "The dog ran after the cat. " * 60])
def test_leaving_early_frees_every_slot(engine: Engine, text: str) -> None:
    async def leave() -> None:
        long = SHORT.replace(max_new_tokens=10_000, temperature=2.0)
        events = Application(digest, engine).events({"text": text}, long)
        async for event in events:
            if isinstance(event, Text | Progress):
                await asyncio.sleep(0.01)
                break
        await events.aclose()

    asyncio.run(leave())
    deadline = time.monotonic() + 20
    while engine.running or engine.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_plugins_metric_is_computed_on_its_examples(engine: Engine) -> None:
    @plugin(decoding=SHORT)
    def echo(text: Passage) -> str:
        return f"Say: {text}"

    examples = [Example({"text": text}, "x", text) for text in ("a", "b", "word " * 500, "c", "d")]
    with pytest.raises(PluginError, match="'echo' has no metric"):
        score(echo, engine, examples)

    @echo.metric
    def right(reply: str, reference: str, fields: dict[str, Any]) -> float:
        assert fields["text"] == reference
        return reference == "a"

    assert score(echo, engine, examples, limit=4) == {
        "examples": 3, "skipped": 1, "right": pytest.approx(1 / 3),
    }  # fmt: skip
