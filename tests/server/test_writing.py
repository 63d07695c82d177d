"""A form without a page: what is kept of a run; presets, tokens and facts as they are shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmapps import Code, Messages, Passage, plugin
from lmapps.decoding import Decoding
from lmapps.engine.engine import Engine
from lmapps.engine.models import Models
from lmapps.engine.scoring import Score, ScoredToken
from lmapps.errors import InputError
from lmapps.server.page.chat.inside import Inside, facts
from lmapps.server.page.chat.tokens import percent, tokens_html
from lmapps.server.page.forms.writing import Writing, Written, count_words, lengths
from lmapps.server.page.presets import DECODING_PRESETS, decoding_kind, decoding_panel, fields_kind
from lmapps.server.page.way import Way, changed, changes
from lmapps.server.store.made import Made
from lmapps.server.store.presets import DECODING, Presets
from lmapps.server.store.runs import Runs
from lmapps.server.store.store import Store

SHORT = Decoding(temperature=0.8, seed=1, max_new_tokens=12)


@plugin(decoding=SHORT, reply=Code("python"))
def coded(text: Passage, style: str = "plain") -> str:
    return f"{style}: {text}"


@plugin(decoding=SHORT)
def steps(text: str) -> Any:
    notes = yield [f"first {text}", f"second {text}"]
    yield f"last {len(notes)}"


@plugin
def shorter(text: Passage) -> str:
    return text


@plugin
def tutor(messages: Messages, subject: str = "", level: int = 1) -> Messages:
    return messages


@pytest.fixture
def models(endless_checkpoint: Callable[[str], Any]) -> Iterator[Models]:
    with Engine(endless_checkpoint("gru"), slots=2) as engine:
        yield Models.of(engine)


def written(writing: Writing, way: Way) -> list[Written]:
    async def all_of_them() -> list[Written]:
        return [now async for now in writing.write("ann", way)]

    return asyncio.run(all_of_them())


def test_a_run_is_kept_with_what_was_filled_in_and_how_it_was_made(
    models: Models, store: Store
) -> None:
    writing = Writing(coded, models, Runs(store.database))
    fields = {"text": "the cat", "style": "odd"}
    way = Way(fields, lambda: SHORT.replace(top_k=9), preset="narrow")
    last = written(writing, way)[-1]
    assert last.view.done and last.run is not None
    (kept,) = writing.last("ann")
    assert kept.id == last.run and kept.fields == fields and kept.finish == "stop"
    assert kept.reply == last.view.text and kept.made == last.made
    assert (kept.made.preset, kept.made.decoding, kept.made.tokens) == ("narrow", {"top_k": 9}, 12)
    assert kept.made.asked == [{"role": "user", "content": "odd: the cat"}]
    assert writing.last("bob") == []


def test_a_form_that_is_refused_is_no_run(models: Models, store: Store) -> None:
    writing = Writing(coded, models, Runs(store.database))
    last = written(writing, Way({"text": "  "}, lambda: SHORT))[-1]
    assert last.view.failed and last.run is None and writing.last("ann") == []


def test_what_was_written_until_stop_is_a_run(
    models: Models, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Writing(coded, models, Runs(store.database))
    slots = models.load()._scheduler.slots  # type: ignore[attr-defined]
    decode = slots.decode
    monkeypatch.setattr(slots, "decode", lambda: time.sleep(0.02) or decode())

    async def stop_in_the_middle() -> None:
        long = SHORT.replace(max_new_tokens=100)
        news = writing.write("ann", Way({"text": "the cat"}, lambda: long))
        async for now in news:
            if now.view.text:
                await news.aclose()
                return

    asyncio.run(stop_in_the_middle())
    (kept,) = writing.last("ann")
    assert kept.finish == "cancelled" and kept.reply and kept.made.asked


def test_a_run_of_several_steps_is_looked_into_at_its_last_step(
    models: Models, store: Store
) -> None:
    writing = Writing(steps, models, Runs(store.database))
    last = written(writing, Way({"text": "x"}, lambda: SHORT))[-1]
    looked = asyncio.run(writing.inside("ann", last.run, scored=True))
    assert looked.asked is not None and looked.score is not None
    assert looked.asked.messages[0]["content"] == "last 2"
    text = "".join(token.text for token in looked.score.tokens if not token.control)
    assert text.strip() == last.view.text
    with pytest.raises(InputError, match="no reply yet"):
        asyncio.run(writing.inside("ann", None))
    with pytest.raises(InputError, match="not there any more"):
        asyncio.run(writing.inside("bob", last.run))


def test_what_the_model_wrote_is_scored_not_what_the_form_made_of_it(
    models: Models, store: Store
) -> None:
    runs = Runs(store.database)
    made = Made(asked=[{"role": "user", "content": "x"}], written="```python\nx = 1\n```")
    run = runs.begin("ann", "coded", {"text": "x"})
    runs.grow(run, "x = 1", "stop", made)
    looked = asyncio.run(Writing(coded, models, runs).inside("ann", run, scored=True))
    assert looked.score is not None
    assert "".join(t.text for t in looked.score.tokens if not t.control) == made.written


def test_words_are_counted_and_a_shorter_reply_says_how_much_shorter() -> None:
    assert count_words("Don't stop: 3 cats, 今天天气 and co-op") == 12
    way = Way({"text": "one two three four"}, lambda: SHORT)
    assert lengths(shorter, way, "one two") == "4 words in, 2 out: 50% of the length"
    assert lengths(shorter, way, "one two three four five") == "4 words in, 5 out"
    assert lengths(steps, way, "one") == "" == lengths(shorter, way, "")
    assert lengths(coded, way, "one") == "", "of code nobody counts the words"


def test_of_decoding_settings_what_differs_is_kept_and_fits_another_application() -> None:
    kind = decoding_kind(SHORT)
    values = [0.8, 0.5, 0, 1.0, 12, "7"]
    assert kind.pack(values) == {"top_p": 0.5, "seed": 7}
    assert kind.unpack({"top_p": 0.5, "seed": 7}) == [0.8, 0.5, 0, 1, 12, "7"]
    other = Decoding(temperature=0.3, max_new_tokens=300)
    assert decoding_kind(other).unpack({"top_p": 0.5})[:2] == [0.3, 0.5]
    assert kind.unpack({"top_p": "much", "unknown": 1, "top_k": 3})[2] == 3, "the rest still counts"
    for values in DECODING_PRESETS.values():
        assert changes(SHORT, changed(SHORT, values)).keys() <= values.keys()


def test_a_name_counts_only_as_long_as_the_controls_say_the_same(store: Store) -> None:
    import gradio as gr

    presets = Presets(store.database)
    presets.save("ann", DECODING, "mine", {"top_p": 0.5})
    with gr.Blocks():
        panel = decoding_panel(coded, presets)
    assert panel.name_of("ann", ["mine", 0.8, 0.5, 0, 1, 12, "1"]) == "mine"
    assert panel.name_of("ann", ["mine", 0.9, 0.5, 0, 1, 12, "1"]) == ""
    assert panel.name_of("bob", ["mine", 0.8, 0.5, 0, 1, 12, "1"]) == ""
    assert panel.name_of("ann", ["Creative", 1.0, 0.95, 0, 1, 12, "1"]) == "Creative"
    assert panel.name_of("ann", ["Balanced", 0.8, 1, 0, 1, 12, "1"]) == "", "the usual has no name"
    assert panel.name_of("ann", ["mine", 0.8, 0.5, 0, 1, 12, "no number"]) == ""


def test_the_fields_of_a_chat_are_kept_by_name_without_what_is_usual() -> None:
    kind = fields_kind("tutor", tutor.fields[1:])
    assert kind.pack(["history", 1]) == {"subject": "history"}
    assert kind.unpack({"subject": "history"}) == ["history", 1]
    assert kind.unpack({}) == ["", 1]


def test_tokens_are_told_by_more_than_colour_and_text_stays_text() -> None:
    shares = [0.9, 0.3, 0.05, 0.001, 0.9]
    texts = ["<b>Hi", " &", "\n", "", "<|end|>"]
    tokens = [
        ScoredToken(n, text, n == 4, share, (("<script>", 0.5), (text, share)))
        for n, (text, share) in enumerate(zip(texts, shares, strict=True))
    ]
    shown = tokens_html(Score(tuple(tokens)))
    assert "<b>" not in shown and "<script>" not in shown and "&lt;b&gt;Hi</button>" in shown
    bands = ["likely", "less", "unlikely", "surprising", "likely"]
    assert all(f'<button type="button" class="{band}"' in shown for band in bands)
    assert shown.count('tabindex="0"') == 1 and "⏎</button><br>" in shown and "(end)" in shown
    assert "(end) had a probability of 90%." in shown and "50% and more" in shown
    assert [percent(p) for p in (0.5, 0.05, 0.005, 1e-9)] == ["50%", "5.0%", "0.50%", "<0.01%"]


def test_facts_say_what_is_known_and_nothing_else() -> None:
    assert facts(Inside(Made())) == ""
    made = Made({}, "pirate", "", {"top_k": 3}, "tiny", 9, 5, 0.5, 2.0)
    score = Score((ScoredToken(1, "a", False, 0.25, ()),))
    assert facts(Inside(made, None, score)) == (
        "model tiny · persona pirate · changed: top\\_k = 3 · 5 tokens · first after 0.50 s · "
        "2 tokens/s · perplexity 4"
    )
    assert facts(Inside(Made(), is_persons=True)) == "Written by a person"
