"""A chat without a page: what each action keeps in the store, and what a tab sees of it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmapps.decoding import Decoding
from lmapps.discovery import discover
from lmapps.engine.engine import Engine
from lmapps.engine.models import Models
from lmapps.engine.slots import Slots
from lmapps.errors import InputError, PromptTooLong
from lmapps.server.page import live
from lmapps.server.page.chat import saved, talk
from lmapps.server.page.chat.inside import Inside
from lmapps.server.page.chat.saved import LISTED, Place, place_from
from lmapps.server.page.chat.seen import Seen
from lmapps.server.page.chat.talk import Talk
from lmapps.server.page.way import Way
from lmapps.server.store.conversation import Conversation, Turn
from lmapps.server.store.made import made_from
from lmapps.server.store.store import Store, new_turn

SHORT = Decoding(temperature=0.8, seed=1, max_new_tokens=12)
OTHER = Decoding(temperature=1.5, seed=2, max_new_tokens=12)


@pytest.fixture
def chat(endless_checkpoint: Callable[[str], Any], store: Store) -> Iterator[Talk]:
    with Engine(endless_checkpoint("gru"), slots=2) as engine:
        yield Talk(discover().get("chat"), Models.of(engine), store)


def way(decoding: Decoding = SHORT, text: str = "", **names: str) -> Way:
    return Way({"persona": text}, lambda: decoding, **names)


def run(news: AsyncGenerator[Seen, None]) -> list[Seen]:
    async def all_of_them() -> list[Seen]:
        return [seen async for seen in news]

    return asyncio.run(all_of_them())


def send(chat: Talk, place: Place, text: str, decoding: Decoding = SHORT) -> Seen:
    return run(chat.send(place, text, way(decoding)))[-1]


def contents(seen: Seen) -> list[str]:
    assert seen.turns is not None
    return [turn.content for turn in seen.turns]


def before_each_step(patch: pytest.MonkeyPatch, wait: Callable[[], Any]) -> None:
    """The model takes its time: `wait` is called before each step of decoding."""
    decode = Slots.decode

    def waiting(slots: Slots) -> Any:
        wait()
        return decode(slots)

    patch.setattr(Slots, "decode", waiting)


def test_a_message_and_its_reply_are_kept_from_the_first_word_on(chat: Talk, store: Store) -> None:
    here = chat.arrive(Place("ann")).place
    news = run(chat.send(here, "Hello there", way(SHORT)))
    assert news[0].busy and contents(news[0]) == ["Hello there"]
    assert [item.title for item in news[0].listed or ()] == ["Hello there"]
    last = news[-1]
    assert not last.busy and len(last.turns or ()) == 2 and contents(last)[1]
    again = chat.arrive(Place("ann", last.place.conversation))
    assert contents(again) == contents(last)
    assert [turn.finish for turn in again.turns or ()] == ["stop", "stop"]


def test_the_model_is_given_the_branch_and_nothing_else(
    chat: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    views = talk.views

    def spy(models: Any, plugin: Any, values: Any, *rest: Any) -> Any:
        given.append([message["content"] for message in values["messages"]])
        return views(models, plugin, values, *rest)

    monkeypatch.setattr(talk, "views", spy)
    first = send(chat, Place("ann"), "one")
    second = send(chat, first.place, "two")
    run(chat.retry(second.place, way(OTHER)))
    run(chat.edit(second.place, 0, "changed", way(SHORT)))
    reply = contents(first)[1]
    assert given == [["one"], ["one", reply, "two"], ["one", reply, "two"], ["changed"]]


def test_retry_and_edit_keep_the_version_before_and_one_can_switch(chat: Talk) -> None:
    first = send(chat, Place("ann"), "one")
    assert first.version is None
    again = run(chat.retry(first.place, way(OTHER)))[-1]
    assert again.version == (2, 2) and contents(again) != contents(first)
    back = chat.switch(again.place, -1)
    assert back.version == (1, 2) and contents(back) == contents(first)
    changed = run(chat.edit(again.place, 0, "uno", way(SHORT)))[-1]
    assert contents(changed)[0] == "uno" and changed.version == (3, 3)
    back = chat.switch(changed.place, -1)
    assert back.version == (2, 3) and contents(back) == contents(again), "the newest before it"
    assert contents(chat.switch(back.place, 1)) == contents(changed), "and there again"
    assert contents(chat.switch(changed.place, 1)) == contents(first), "they stand in a circle"


def without_models(store: Any) -> Talk:
    """For what asks none."""
    models: Any = None
    return Talk(discover().get("chat"), models, store)


@settings(deadline=None)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=12), st.integers(0, 12))
def test_from_wherever_one_stands_each_button_leads_to_every_branch(
    numbers: list[int], start: int
) -> None:
    ids, turns = list[str | None]([None]), list[Turn]()
    for number in numbers:
        parent, role = ids[number % len(ids)], ("user", "assistant")[number % 2]
        turns.append(Turn(f"turn {len(ids)}", parent, role, "", "person"))
        ids.append(turns[-1].id)
    here, leaves = ids[start % len(ids)], set(ids) - {turn.parent for turn in turns}
    whole, place = Conversation("made", "", here, turns), Place("ann", "made", here)
    chat = without_models(SimpleNamespace(load=lambda *_: whole, show=lambda *_: None))
    assert (chat.earlier(place).version is None) == ({here} == leaves), "else there are buttons"
    for by in (1, -1):
        reached, seen = {here}, chat.switch(place, by)
        while seen.place.leaf not in reached:
            reached.add(seen.place.leaf)
            there = chat.switch(seen.place, by)
            assert chat.switch(there.place, -by).place == seen.place, "the other takes it back"
            seen = there
        assert reached >= leaves


def test_a_corrected_reply_is_kept_as_the_persons_and_is_not_answered(chat: Talk) -> None:
    first = send(chat, Place("ann"), "one")
    passes = chat.models.load().passes
    corrected = run(chat.edit(first.place, 1, "the right reply", way(SHORT)))[-1]
    assert chat.models.load().passes == passes
    assert [(turn.content, turn.author) for turn in corrected.turns or ()] == [
        ("one", "person"), ("the right reply", "person"),
    ]  # fmt: skip
    assert corrected.version == (2, 2)


def test_undo_puts_the_message_back_into_the_box_and_keeps_the_branch(chat: Talk) -> None:
    second = send(chat, send(chat, Place("ann"), "one").place, "two")
    undone = chat.undo(second.place)
    assert undone.message == "two" and contents(undone) == contents(second)[:2]
    empty = chat.undo(undone.place)
    assert empty.message == "one" and contents(empty) == []
    assert chat.undo(empty.place).status == "There is nothing to undo."
    anew = send(chat, empty.place, "other")
    assert contents(anew)[0] == "other" and anew.version == (2, 2)


def test_what_was_undone_is_a_version_also_where_nothing_is_left_to_be_shown(chat: Talk) -> None:
    whole = send(chat, send(chat, Place("ann"), "one").place, "two")
    undone = chat.undo(whole.place)
    empty = chat.undo(undone.place)
    opened = chat.arrive(empty.place)
    for seen in (undone, empty, opened):
        assert seen.version == (2, 2)
        back = chat.switch(seen.place, -1)
        assert contents(back) == contents(whole) and back.version is None
    assert empty.inside == opened.inside == Inside(made_from({})), "there is no reply to look into"


def test_a_stale_tab_goes_on_from_what_it_shows(chat: Talk, store: Store) -> None:
    first = send(chat, Place("ann"), "one")
    new_tab = send(chat, first.place, "from the new tab")
    stale = send(chat, first.place, "from the stale tab")
    assert contents(new_tab)[2] == "from the new tab"
    assert contents(stale)[2] == "from the stale tab" and stale.version == (2, 2)
    assert len(store.load("ann", first.place.conversation or "").turns) == 6


def test_what_was_written_until_stop_is_kept(
    chat: Talk, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Decoding(seed=1, max_new_tokens=100)
    slots = chat.models.load()._scheduler.slots
    decode = slots.decode
    monkeypatch.setattr(slots, "decode", lambda: time.sleep(0.02) or decode())

    async def stop_in_the_middle() -> Seen:
        news = chat.send(Place("ann"), "one", way(endless))
        async for seen in news:
            if seen.turns and len(seen.turns) == 2 and seen.turns[1].content:
                await news.aclose()
                return seen
        raise AssertionError("no reply came")

    seen = asyncio.run(stop_in_the_middle())
    kept = store.load("ann", seen.place.conversation or "").path()
    assert [turn.finish for turn in kept] == ["stop", "cancelled"]
    assert kept[1].content.startswith(contents(seen)[1])
    assert send(chat, seen.place, "two").version is None, "the tab goes on where it stopped"


def test_a_reply_is_saved_while_it_grows(
    chat: Talk, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(live, "REFRESH_SECONDS", 0.0)
    grown, is_saved = list[str](), threading.Event()
    grow = store.grow

    def growing(turn: str, text: str, *rest: Any) -> Any:
        grown.append(text)
        is_saved.set()
        return grow(turn, text, *rest)

    monkeypatch.setattr(store, "grow", growing)
    before_each_step(monkeypatch, lambda: is_saved.wait(0.1))
    last = send(chat, Place("ann"), "one", Decoding(seed=1, max_new_tokens=100))
    assert len(grown) > 1 and grown[-1] == contents(last)[1], "before its end too"
    assert all(a == b[: len(a)] for a, b in pairwise(grown[:-1]))


def test_an_error_is_a_sentence_and_the_message_is_kept(chat: Talk) -> None:
    news = run(chat.send(Place("ann"), "long " * 500, way(SHORT)))
    assert "shorten it" in (news[-1].status or "") and not news[-1].busy
    assert [turn.role for turn in chat.open(news[-1].place, news[-1].place.conversation).turns or ()
            ] == ["user"]  # fmt: skip
    assert PromptTooLong.status == 413


def test_a_long_conversation_shows_its_end_and_more_when_asked(chat: Talk, store: Store) -> None:
    made = store.begin("ann", "chat")
    parent = None
    for number in range(500):
        parent = store.add("ann", made, parent, "user", str(number), "person").id
    seen = chat.open(Place("ann"), made)
    assert contents(seen)[0] == "440" and seen.earlier == 440
    more = chat.earlier(seen.place)
    assert contents(more)[0] == "380" and contents(more)[-1] == "499"
    chat.rate(more.place, 0, "Like")
    assert [turn.content for turn in store.load("ann", made).turns if turn.rating] == ["380"]


def test_a_long_list_shows_its_beginning_and_more_when_asked() -> None:
    store = Store("sqlite:///:memory:")
    for number in range(450):
        store.start("ann", "chat", new_turn(None, "user", f"talk-{number}", "person"))
    chat, count = without_models(store), 0
    seen = chat.arrive(Place("ann"))
    for count in (LISTED, 2 * LISTED):
        assert seen.place.listed == count and len(seen.listed or ()) == count + 1
        seen = chat.longer(place_from(None, "ann", extent=seen.place.extent()))
    assert [item.title for item in seen.listed or ()] == [f"talk-{n}" for n in range(449, -1, -1)]
    (found,) = chat.find(Place("ann", search="talk-0")).listed or ()
    opened = chat.open(seen.place, found.id)
    assert opened.place.listed == 3 * LISTED, "the list stays as long"
    assert len(chat.longer(Place("ann", search="talk")).listed or ()) == 2 * LISTED + 1
    assert chat.arrive(opened.place).place.listed == LISTED, "the page opens with the first of them"


def test_a_list_that_is_searched_stays_so_whatever_is_done(chat: Talk) -> None:
    """Until other words are searched for: what stands in the box is what is listed."""
    places = [send(chat, Place("ann"), text).place for text in ("one", "two")]
    searched = replace(places[0], search="two")

    def titles(seen: Seen) -> list[str] | None:
        return None if seen.listed is None else [item.title for item in seen.listed]

    sent = run(chat.send(searched, "three", way()))
    assert titles(sent[0]) == ["two"] and all(titles(seen) is None for seen in sent[1:])
    assert titles(chat.find(searched)) == ["two"]
    place = sent[-1].place
    assert titles(run(chat.retry(place, way()))[0]) == ["two"]
    assert titles(chat.rename(place, "uno")) == titles(chat.longer(place)) == ["two"]
    gone = chat.delete(place)
    assert titles(gone) == titles(chat.restore(gone.place, place.conversation or "")) == ["two"]
    assert sorted(titles(chat.find(replace(place, search=""))) or ()) == ["two", "uno"]
    assert len(titles(chat.arrive(place)) or ()) == 2, "the box is empty as the page opens"


def test_a_rating_is_kept_and_can_be_taken_back(chat: Talk, store: Store) -> None:
    place = send(chat, Place("ann"), "one").place
    for liked, rating in ((False, -1), (True, 1), ("Dislike", -1), ("", None)):
        chat.rate(place, 1, liked)
        assert store.load("ann", place.conversation or "").turns[1].rating == rating


def test_deleting_can_be_undone_and_what_is_not_there_is_named(chat: Talk) -> None:
    place = send(chat, Place("ann"), "one").place
    gone = chat.delete(place)
    assert gone.listed == [] and contents(gone) == []
    back = chat.restore(gone.place, place.conversation or "")
    assert [item.title for item in back.listed or ()] == ["one"] and contents(back)[0] == "one"
    with pytest.raises(InputError, match="no conversation yet"):
        chat.delete(Place("ann"))
    with pytest.raises(InputError, match="no conversation yet"):
        chat.rename(Place("ann"), "x")


def test_a_visitor_whose_conversation_is_gone_begins_a_new_one(chat: Talk) -> None:
    theirs = send(chat, Place("bob"), "secret").place
    for conversation in ("nowhere", theirs.conversation):
        seen = chat.arrive(Place("ann", conversation))
        assert seen.place == Place("ann") and contents(seen) == [] and seen.listed == []


def test_an_exported_conversation_is_the_branch_that_the_tab_shows(chat: Talk) -> None:
    first = send(chat, Place("ann"), "one")
    run(chat.retry(first.place, way(OTHER)))
    exported = chat.export(first.place)
    assert [turn.content for turn in exported.path()] == contents(first)
    copied = chat.take_in(Place("bob"), exported.as_data())
    assert contents(copied) == contents(first) and copied.version == (1, 2)


def test_what_was_undone_to_the_beginning_can_be_exported_and_taken_in(chat: Talk) -> None:
    undone = chat.undo(send(chat, Place("ann"), "one").place)
    data = json.loads(json.dumps(chat.export(undone.place).as_data()))
    copied = chat.take_in(Place("bob"), data)
    assert contents(copied) == [] and copied.status == "Imported."


def test_a_mistake_of_ours_ends_a_reply_with_a_sentence_and_a_line_in_the_log(
    chat: Talk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("secret")

    monkeypatch.setattr(chat.models.load(), "stream", broken)
    last = send(chat, Place("ann"), "one")
    assert last.status == "⚠ Something went wrong in the server (RuntimeError): see its log."
    assert not last.busy and "RuntimeError: secret" in caplog.text


def test_how_a_reply_was_made_is_kept_with_it_and_comes_along_in_an_export(chat: Talk) -> None:
    asked = way(OTHER, "Be a pirate.", persona="pirate", preset="wild")
    seen = run(chat.send(Place("ann"), "one", asked))[-1]
    assert seen.turns is not None and seen.inside is not None
    made = made_from(seen.turns[1].made)
    assert made == seen.inside.made
    assert (made.persona, made.preset, made.model) == ("pirate", "wild", "unnamed")
    assert made.fields == {"persona": "Be a pirate."} and made.decoding["temperature"] == 1.5
    assert made.tokens == 12 and (made.prompt_tokens or 0) > 5
    assert made.first_token is not None and made.seconds is not None
    copied = chat.take_in(Place("bob"), chat.export(seen.place).as_data())
    assert copied.turns is not None and copied.turns[1].made == seen.turns[1].made


def inside(chat: Talk, place: Place, number: int | None = None, scored: bool = True) -> Inside:
    return asyncio.run(chat.inside(place, number, scored=scored))


def test_any_reply_can_be_looked_into_after_all_that_came_later(chat: Talk) -> None:
    first = run(chat.send(Place("ann"), "one", way(SHORT, "Be brief.")))[-1]
    second = send(chat, first.place, "two")
    for number, count in ((1, 2), (2, 3)):
        looked = inside(chat, second.place, number)
        assert (looked.number, looked.count) == (number, 2)
        assert looked.asked is not None and looked.score is not None
        assert len(looked.asked.messages) == count
        written = "".join(token.text for token in looked.score.tokens if not token.control)
        assert written == contents(second)[2 * number - 1]
        assert all(0 < token.probability <= 1 for token in looked.score.tokens)
        assert all(len(token.top) == 5 for token in looked.score.tokens)
    assert inside(chat, second.place, 1).asked.messages[0]["content"] == "Be brief."  # type: ignore
    assert inside(chat, second.place, 99, scored=False).number == 2
    with pytest.raises(InputError, match="no reply yet"):
        inside(chat, Place("ann"))


def test_a_reply_that_a_person_wrote_is_scored_as_it_stands(chat: Talk) -> None:
    first = run(chat.send(Place("ann"), "one", way(SHORT, "Be brief.")))[-1]
    corrected = run(chat.edit(first.place, 1, "The cat sat.", way()))[-1]
    looked = inside(chat, corrected.place)
    assert looked.is_persons and looked.score is not None and looked.asked is not None
    assert "".join(token.text for token in looked.score.tokens) == "The cat sat.<|end|>"
    assert looked.asked.messages[0]["content"] == "Be brief.", "as the one that it corrects"


def test_where_many_replies_are_under_way_each_has_news_more_rarely(
    chat: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert live.seconds_between(1) == live.seconds_between(20) == live.REFRESH_SECONDS
    assert live.seconds_between(60) == pytest.approx(0.2)
    counted = list[int]()
    between = live.seconds_between

    def note(under_way: int) -> float:
        counted.append(under_way)
        return between(under_way)

    def wait() -> None:  # none ends before the last has begun
        if max(counted, default=0) < 3:
            time.sleep(0.05)

    monkeypatch.setattr(live, "seconds_between", note)
    before_each_step(monkeypatch, wait)

    async def three() -> None:
        long = way(SHORT.replace(max_new_tokens=90))
        await asyncio.gather(*(run_all(chat.send(Place(f"p{n}"), "one", long)) for n in range(3)))

    async def run_all(news: Any) -> None:
        async for _ in news:
            pass

    asyncio.run(three())
    assert max(counted) == 3
    asyncio.run(run_all(chat.send(Place("p"), "one", way(SHORT))))
    assert counted[-1] <= 1, "those that have ended do not count"
