"""What a plugin replies: held to its form, parsed into a value, shown and typed."""

from __future__ import annotations

import asyncio
import json
import typing
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest

from lmapps import Bounds, Code, Decoding, Messages, Passage, code_of, plugin
from lmapps.discovery import discover
from lmapps.engine.application import Application, Done
from lmapps.engine.engine import Engine
from lmapps.errors import PluginError, ReplyError
from lmapps.evaluation.tasks import score
from lmapps.model.checkpoint import Checkpoint
from lmapps.plugin import Example, Plugin
from lmapps.reply import reply_form

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
Feeling = Literal["glad", "sad (very)", "a.*b|c", "glad or not", "好"]


@dataclass
class Size:
    width: Annotated[int, Bounds(1, 9)]
    unit: Literal["m", "km"]


@dataclass
class Thing:
    kind: Literal["cat", "dog"]
    alive: bool
    size: Size
    other: Size | None


SMALL = Decoding(temperature=2, seed=3, max_new_tokens=120)


@plugin(reply=Feeling, decoding=SMALL)
def feel(text: Passage) -> str:
    return f"How does it feel? {text}"


@plugin(reply=Thing, decoding=SMALL)
def look(text: Passage) -> str:
    return f"What is it? {text}"


@pytest.fixture(scope="module", params=["gru", "transformer"])
def engine(
    tiny_checkpoint: Callable[[str], Checkpoint], request: pytest.FixtureRequest
) -> Iterator[Engine]:
    with Engine(tiny_checkpoint(request.param)) as engine:
        yield engine


def done(app: Plugin, engine: Engine, decoding: Decoding | None = None, **values: Any) -> Done:
    return asyncio.run(Application(app, engine).reply(values, decoding))


def test_a_random_model_replies_one_of_the_texts_whatever_the_seed(engine: Engine) -> None:
    choices = set(feel.reply_form.schema()["enum"])
    seen = {done(feel, engine, SMALL.replace(seed=n), text="x").value for n in range(12)}
    assert len(seen) > 1 and seen <= choices


def test_a_random_model_replies_a_dataclass(engine: Engine) -> None:
    reply = done(look, engine, text="The cat")
    assert isinstance(reply.value, Thing) and isinstance(reply.value.size, Size)
    assert json.loads(reply.reply) == asdict(reply.value)
    jsonschema.validate(json.loads(reply.reply), look.reply_form.schema())


def test_penalties_and_stop_strings_do_not_break_a_form(engine: Engine) -> None:
    odd = SMALL.replace(no_repeat_ngram=1, repetition_penalty=5.0, stop=("{", "a", "s"))
    assert isinstance(done(look, engine, odd, text="x").value, Thing)
    assert done(feel, engine, odd, text="x").value


def test_a_reply_cut_in_the_middle_is_one_sentence(engine: Engine) -> None:
    with pytest.raises(ReplyError, match=r"not whole JSON.*cut at 5 tokens.*max_new_tokens"):
        done(look, engine, SMALL.replace(max_new_tokens=5), text="x")


def test_prompts_side_by_side_are_answered_in_text_and_the_last_one_in_the_form(
    engine: Engine,
) -> None:
    notes: list[str] = []

    @plugin(reply=Literal["yes", "no"], decoding=SMALL.replace(max_new_tokens=8))
    def judge(text: str) -> Any:
        notes.extend((yield [f"Note {n}: {text}" for n in range(3)]))
        yield "Is it so? " + " ".join(notes)

    assert done(judge, engine, text="x").value in ("yes", "no")
    assert len(notes) == 3 and not set(notes) <= {"yes", "no"}


def test_code_comes_without_its_fence_and_is_shown_while_it_is_written() -> None:
    form = reply_form(Code("python"))
    whole = "Here:\n```python\nx = 1\ny = 2\n```\nThat's it."
    assert form.finish(whole) == "x = 1\ny = 2"
    seen = [form.shown(whole[6:end], None) for end in range(7, len(whole) + 1)]
    assert not any("`" in text for text in seen[9:-20])
    assert form.shown("```python", None) == "" and form.finish("x = 1") == "x = 1"


@pytest.mark.parametrize("reply", [None, Code, Code("python"), Code("Klingon"), Feeling, Thing])
def test_every_form_has_a_component_that_takes_what_it_shows(reply: Any) -> None:
    import gradio as gr

    form = reply_form(reply)
    text = {Feeling: "glad", Thing: THING}.get(reply, "x = 1")
    name, options = form.component()
    with gr.Blocks():
        component = getattr(gr, name)(**options)
    component.postprocess(form.shown(text[:3], None))
    component.postprocess(form.shown(text, form.parse(text)))
    jsonschema.validate(json.loads(json.dumps(_plain(form.parse(text)))), form.schema())


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Thing) else value


THING = json.dumps(asdict(Thing("cat", True, Size(3, "m"), None)))


def test_a_data_set_yields_values_and_the_model_is_trained_on_the_text_it_will_write() -> None:
    thing = Thing("dog", False, Size(1, "km"), Size(2, "m"))

    @plugin(reply=Thing)
    def see(text: str) -> str:
        return text

    @see.dataset
    def own() -> Any:
        yield {"text": "x"}, thing

    @see.metric
    def right(reply: Thing, reference: Thing, fields: dict[str, Any]) -> float:
        return reply == reference and isinstance(reply, Thing)

    (example,) = see.own_examples()
    assert example.reply == json.dumps(asdict(thing)) and example.reference is thing
    assert see.scores(example.reply, example) == {"right": 1.0}
    assert see.scores(THING, example) == see.scores("{", example) == {"right": 0.0}

    @see.dataset
    def wrong() -> Any:
        yield {"text": "x"}, {"kind": "cow"}

    with pytest.raises(ReplyError, match="the reply must be an object with kind, alive, size"):
        list(see.own_examples())


def test_a_reply_out_of_form_scores_nothing_and_is_not_skipped(engine: Engine) -> None:
    @plugin(reply=Thing, decoding=SMALL.replace(max_new_tokens=2))
    def cut(text: str) -> str:
        return text

    @cut.metric
    def one(reply: Thing, reference: Any, fields: dict[str, Any]) -> float:
        return 1.0

    examples = [Example({"text": "x"}, THING, None)] * 2
    assert score(cut, engine, examples) == {"examples": 2, "skipped": 0, "one": 0.0}


@dataclass
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("it is odd")


def test_a_dataclass_that_refuses_its_values_is_a_reply_out_of_form() -> None:
    form = reply_form(Even)
    assert form.parse('{"number": 2}') == Even(2)
    with pytest.raises(ReplyError, match="the reply is refused by Even: ValueError: it is odd"):
        form.parse('{"number": 3}')


@dataclass
class Odd:
    raw: bytes


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (int, "reply must be a Literal of texts, a dataclass or Code"),
        ("text", "reply must be"),
        (Literal[1], "reply must be"),
        (list[str], "reply must be"),
        (vars(typing)["List"], "reply must be"),
        (Literal[()], "reply must be"),
        (Code(5), "reply must be .*got Code"),  # type: ignore[arg-type]
        (Literal[" yes", "no"], "reply has the text ' yes', but a reply loses the white space"),
        (Literal["yes", ""], "reply has the text '', but"),
        (Odd, "Odd.raw cannot be in a reply: annotate it with str"),
    ],
)
def test_a_reply_of_another_type_is_refused_when_the_plugin_is_made(reply: Any, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        plugin(reply=reply)(lambda: "x")
    with pytest.raises(PluginError, match="is a chat, which replies text"):

        @plugin(reply=Code("c"))
        def chat(messages: Messages) -> Messages:
            return messages


@pytest.mark.parametrize("name", ["classify", "extract"])
def test_the_examples_in_the_docs_load_train_and_run(name: str, engine: Engine) -> None:
    found = discover([EXAMPLES])
    assert not found.failures
    app = found.plugins[name]
    for example in app.own_examples():
        assert set(app.scores(example.reply, example).values()) == {1.0}
        assert app.conversation(example)[-1]["content"] == example.reply
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 40
    try:
        reply = done(app, engine, **next(app.own_examples()).fields)
        assert app.reply_form.text_of(reply.value) == reply.reply
    except ReplyError as error:  # a random model may write a name without end
        assert name == "extract" and "cut at" in str(error)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("def f():\n    return 1\n```\n\nThis function returns 1.", "def f():\n    return 1\n"),
        ("def f():\n    return 1\n```", "def f():\n    return 1\n"),
        ("Here it is\n```\ndef f(): pass", "def f(): pass"),
        ("Sure\n```\ndef f(): pass", "def f(): pass"),
        ("```python\ndef f(): pass\n```\nIt does nothing.", "def f(): pass\n"),
    ],
)
def test_code_that_a_model_forgot_to_open_is_found(reply: str, expected: str) -> None:
    assert code_of(reply) == expected
