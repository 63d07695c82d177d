"""A plugin on an engine: parts, notices, overflow, cancelling."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmapps import Decoding, Messages, Passage, plugin
from lmapps.discovery import discover
from lmapps.engine.admission import ANY, Lengths
from lmapps.engine.application import Application, Asked, Clear, Done, Event, Notice, Progress, Text
from lmapps.engine.context import fit_conversation, prompt_room
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
    parts = [event for event in events if not isinstance(event, Asked)]
    assert isinstance(parts[total + 1], Clear)
    assert isinstance(events[-1], Done)


def test_a_short_text_goes_whole(engine: Engine) -> None:
    assert not any(isinstance(e, Progress) for e in events_of(digest, engine, {"text": "A cat."}))


def test_an_overflowing_chat_drops_its_oldest_turns_and_says_so(engine: Engine) -> None:
    events = events_of(talk, engine, {"messages": turns(21)})
    notice = events[1]
    assert isinstance(notice, Notice) and "oldest" in notice.text
    assert isinstance(events[-1], Done)
    assert events[-1].prompt_tokens + 12 <= engine.context


def test_what_is_left_of_a_conversation_keeps_the_system_prompt_and_begins_with_the_user(
    engine: Engine,
) -> None:
    system: Messages = [{"role": "system", "content": "Be brief."}]
    messages = [*system, *turns(21)]
    ids, left_out = fit_conversation(messages, engine, SHORT)
    assert left_out > 0 and left_out % 2 == 0
    assert ids == engine.render([*system, *messages[1 + left_out :]])
    assert fit_conversation(turns(1), engine, SHORT)[1] == 0


@pytest.mark.parametrize(
    ("asked", "lengths", "room"),
    [
        (12, ANY, 116), (1000, ANY, 96), (12, Lengths(prompt=60), 60),
        (12, Lengths(prompt=999), 116), (1000, Lengths(reply=5), 123),
        (12, Lengths(reply=999), 116),
    ],
)  # fmt: skip
def test_a_prompt_has_the_room_that_its_reply_cannot_have(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, asked: int, lengths: Lengths, room: int
) -> None:
    monkeypatch.setattr(engine, "lengths", lengths)
    assert engine.context == 128
    assert prompt_room(engine, Decoding(max_new_tokens=asked)) == room


def test_anything_else_that_overflows_is_refused_with_the_length_and_the_limit(
    engine: Engine,
) -> None:
    with pytest.raises(PromptTooLong, match=r"the prompt has \d+ tokens, the model takes at most"):
        events_of(shout, engine, {"text": "word " * 500})
    with pytest.raises(PromptTooLong):
        events_of(talk, engine, {"messages": turns(1, "word " * 500)})


def test_what_is_asked_comes_first_and_is_what_the_engine_gets(engine: Engine) -> None:
    submitted: list[list[int]] = []
    submit = engine.submit
    engine.submit = lambda ids, *rest: submitted.append(list(ids)) or submit(ids, *rest)  # type: ignore
    for app, values in ((talk, {"messages": turns(21)}), (digest, {"text": "The cat sat. " * 90})):
        submitted.clear()
        events = events_of(app, engine, values)
        asked = [event for event in events if isinstance(event, Asked)]
        assert events[0] is asked[0] and asked[0].prompts == max(1, len(submitted) - 1)
        seen = asked[0].explained()
        assert [token.id for token in seen.tokens] == submitted[0]
        assert seen.decoding == SHORT
        again = asyncio.run(Application(app, engine).explain(values))
        assert again == seen, "the same without asking"


def test_an_explanation_shows_markers_and_what_training_counts(engine: Engine) -> None:
    conversation = [*turns(3), {"role": "user", "content": "今<|user|>"}]
    seen = asyncio.run(Application(talk, engine).explain({"messages": conversation}))
    markers = [token.text for token in seen.tokens if token.control]
    assert markers.count("<|user|>") == 3 and "<|endoftext|><|user|>0 the" in seen.text
    assert seen.text.endswith("今<|user|><|end|><|assistant|>")
    counted = "".join(token.text for token in seen.tokens if token.counted)
    assert counted == "1 the cat sat on the mat<|end|>"
    assert seen.settings == "temperature = 1, max_new_tokens = 12, seed = 1"
    passes = engine.passes
    asyncio.run(Application(shout, engine).explain({"text": "hello"}))
    assert engine.passes == passes
    with pytest.raises(PromptTooLong):
        asyncio.run(Application(shout, engine).explain({"text": "word " * 500}))


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
    beside = score(echo, engine, examples, limit=4, overlap=True)["baselines"]
    assert beside["empty reply"] == {"right": pytest.approx(1 / 3)}, "of the same examples"


PAGE = "The dog ran after the cat, and the cat ran up a tree. It was a fine day. " * 24
"""As many words as a printed page: about 420."""


@pytest.mark.parametrize("pages", [6, pytest.param(60, marks=pytest.mark.long)])
def test_sixty_pages_give_one_summary_and_the_person_sees_how_far_it_is(
    pages: int, engine: Engine
) -> None:
    summarize = discover().plugins["summarize"]
    decoding = summarize.decoding.replace(max_new_tokens=8, seed=1)

    async def collect() -> list[Event]:
        values = {"text": PAGE * pages, "length": "a headline"}
        return [e async for e in Application(summarize, engine).events(values, decoding)]

    events = asyncio.run(collect())
    assert [type(event) for event in events].count(Done) == 1 and isinstance(events[-1], Done)
    rounds: list[list[Progress]] = []
    for event in events:
        if isinstance(event, Progress):
            if event.done == 0:
                rounds.append([])
            rounds[-1].append(event)
    assert len(rounds) > 1 and rounds[0][0].total > 5 * pages
    for shown in rounds:
        assert [event.done for event in shown] == list(range(shown[0].total + 1))
    assert rounds[-1][0].total < rounds[0][0].total / 2
    wait_until_idle(engine)


def wait_until_idle(engine: Engine) -> None:
    """The last word of a reply arrives a moment before its slot is free."""
    deadline = time.monotonic() + 20
    while engine.running or engine.waiting:
        assert time.monotonic() < deadline, "a slot is still taken after 20 seconds"
        time.sleep(0.001)


def test_cancelling_after_any_event_frees_every_slot_at_once(
    endless_checkpoint: Callable[[str], Checkpoint],
) -> None:
    engine = Engine(endless_checkpoint("gru"))
    long = SHORT.replace(max_new_tokens=24, temperature=2.0)  # 24 passes and more, uncancelled
    values = {"text": "The dog ran after the cat. " * 30}
    kinds = set()

    async def leave_after(count: int) -> bool:
        """Whether there were so many events."""
        events = Application(digest, engine).events(values, long)
        seen = 0
        async for event in events:
            seen += 1
            kinds.add(type(event))
            if seen == count:
                break
        passes = engine.passes
        await events.aclose()
        done = isinstance(event, Done)
        wait_until_idle(engine)
        assert engine.passes - passes <= 16, "cancelled requests went on"
        return not done

    count = 1
    while asyncio.run(leave_after(count)):
        count += 1
    assert count > 5 and {Progress, Clear, Text, Done} <= kinds
    engine.close()


def test_a_passage_that_was_left_out_stays_none_and_every_other_is_measured(
    tiny_checkpoint: Callable[[str], Checkpoint],
) -> None:
    given: list[tuple[Any, Any]] = []

    @plugin(decoding=SHORT)
    def compare(one: Passage, other: Passage | None = None) -> str:
        given.append((one, other))
        return f"{one.parts()[0]} {other.parts()[0] if other else ''}"

    with Engine(tiny_checkpoint("gru")) as engine:
        events_of(compare, engine, {"one": "A cat."})
        assert given[-1] == ("A cat.", None)
        events_of(compare, engine, {"one": "A cat. " * 90, "other": "A dog. " * 90})
        one, other = given[-1]
        assert one.budget == other.budget < engine.context / 2, "both parts fit together"
