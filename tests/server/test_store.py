"""Conversations are a tree that only grows, belong to somebody, and survive a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmapps.errors import InputError, StorageError
from lmapps.server.store.conversation import NoSuchConversation, conversation_from
from lmapps.server.store.store import Store


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


def talk(store: Store, owner: str = "ann", turns: int = 4) -> str:
    made = store.begin(owner, "chat")
    parent = None
    for number in range(turns):
        role, author = ("user", "person") if number % 2 == 0 else ("assistant", "model")
        parent = store.add(owner, made, parent, role, f"turn {number}", author).id  # type: ignore
    return made


def said(store: Store, conversation: str, owner: str = "ann") -> list[str]:
    return [turn.content for turn in store.load(owner, conversation).path()]


def test_a_conversation_is_called_after_its_first_message_and_can_be_renamed(store: Store) -> None:
    made = store.begin("ann", "chat")
    assert store.list("ann", "chat") == [], "an empty one is not listed"
    first = store.add("ann", made, None, "user", "What is a river,\n and why? " * 9, "person")
    assert [item.title for item in store.list("ann", "chat")] == [
        "What is a river, and why? What is a river, and why? What is ..."
    ]
    store.rename("ann", made, " Rivers ")
    store.add("ann", made, first.id, "user", "And a lake?", "person")
    assert [item.title for item in store.list("ann", "chat")] == ["Rivers"]
    with pytest.raises(InputError, match="needs a title"):
        store.rename("ann", made, "  ")


def test_trying_again_adds_a_branch_and_keeps_the_one_before(store: Store) -> None:
    made = talk(store)
    path = store.load("ann", made).path()
    again = store.add("ann", made, path[2].id, "assistant", "another reply", "model")
    assert said(store, made) == ["turn 0", "turn 1", "turn 2", "another reply"]
    whole = store.load("ann", made)
    assert [turn.content for turn in whole.versions(again)] == ["turn 3", "another reply"]
    store.show("ann", made, path[3].id)
    assert said(store, made)[-1] == "turn 3"


def test_a_stale_tab_adds_a_branch_and_overwrites_nothing(store: Store) -> None:
    made = talk(store, turns=2)
    seen_by_both = store.load("ann", made).path()[-1].id
    store.add("ann", made, seen_by_both, "user", "from the new tab", "person")
    store.add("ann", made, seen_by_both, "user", "from the stale tab", "person")
    contents = [turn.content for turn in store.load("ann", made).turns]
    assert contents == ["turn 0", "turn 1", "from the new tab", "from the stale tab"]


def test_the_branches_end_side_by_side_and_where_one_stands_comes_after_them(store: Store) -> None:
    made = talk(store)
    first, _, third, last = (turn.id for turn in store.load("ann", made).turns)
    newer = store.add("ann", made, first, "assistant", "newer", "model").id
    again = store.add("ann", made, third, "assistant", "again", "model").id
    whole = store.load("ann", made)
    assert whole.ends(newer) == [last, again, newer]
    assert whole.ends(third) == [last, again, third, newer]
    assert whole.ends(None) == [last, again, newer, None]
    with pytest.raises(NoSuchConversation, match="not there any more"):
        whole.ends("nowhere")


def test_what_is_deleted_is_not_listed_and_can_be_taken_back(store: Store) -> None:
    kept, gone = talk(store), talk(store)
    store.delete("ann", gone)
    assert [item.id for item in store.list("ann", "chat")] == [kept]
    store.restore("ann", gone)
    assert {item.id for item in store.list("ann", "chat")} == {kept, gone}


def test_search_finds_every_word_in_titles_and_turns_whatever_the_case(store: Store) -> None:
    made = store.begin("ann", "chat")
    first = store.add("ann", made, None, "user", "Tell me of Rivers", "person")
    store.add("ann", made, first.id, "assistant", "100% of them flow_down", "model")
    talk(store)
    for search in ("rivers", "RIVERS flow", "100%", "flow_d", "flow rivers"):
        assert [item.id for item in store.list("ann", "chat", search)] == [made], search
    assert store.list("ann", "chat", "rivers lake") == []
    assert store.list("ann", "chat", "fl%wn") == [], "a percent sign is only that"


def test_what_belongs_to_somebody_else_does_not_exist(store: Store) -> None:
    made = talk(store)
    turn = store.load("ann", made).turns[0].id
    other = talk(store, "bob")
    calls: list[Any] = [
        lambda: store.load("bob", made),
        lambda: store.add("bob", made, None, "user", "x", "person"),
        lambda: store.rename("bob", made, "x"),
        lambda: store.delete("bob", made),
        lambda: store.show("bob", made, None),
        lambda: store.rate("bob", made, turn, 1),
        lambda: store.rate("bob", other, turn, 1),
        lambda: store.add("bob", other, turn, "user", "x", "person"),
        lambda: store.show("bob", other, turn),
    ]
    for call in calls:
        with pytest.raises(NoSuchConversation):
            call()
    assert store.list("bob", "chat")[0].id == other and len(store.list("bob", "chat")) == 1
    assert said(store, made) == ["turn 0", "turn 1", "turn 2", "turn 3"]


def test_a_rating_and_a_corrected_reply_are_kept(store: Store) -> None:
    made = talk(store, turns=2)
    question, reply = store.load("ann", made).turns
    store.rate("ann", made, reply.id, -1)
    store.add("ann", made, question.id, "assistant", "the right reply", "person")
    store.grow(reply.id, "it grew", "stop")
    turns = store.load("ann", made).turns
    assert [(turn.content, turn.author, turn.rating) for turn in turns[1:]] == [
        ("it grew", "model", -1), ("the right reply", "person", None),
    ]  # fmt: skip


def test_what_a_person_wrote_never_grows(store: Store) -> None:
    made = talk(store, turns=1)
    store.grow(store.load("ann", made).turns[0].id, "something else", "stop")
    assert said(store, made) == ["turn 0"]


@settings(deadline=None, max_examples=25)
@given(steps=st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.text(max_size=9)), min_size=1))
def test_an_exported_conversation_comes_back_with_every_branch(
    steps: list[tuple[int, bool, str]],
) -> None:
    store = Store("sqlite:///:memory:")
    made, ids = store.begin("ann", "chat", "A title"), list[str]()
    for place, by_model, content in steps:
        parent = ids[place % len(ids)] if ids else None
        role, author = ("assistant", "model") if by_model else ("user", "person")
        ids.append(store.add("ann", made, parent, role, content, author).id)  # type: ignore
        if by_model:
            store.rate("ann", made, ids[-1], 1)
    exported = store.load("ann", made)
    copied = store.load(
        "bob",
        store.take_in("bob", "chat", conversation_from(json.loads(json.dumps(exported.as_data())))),
    )

    def shape(whole: Any) -> list[Any]:
        numbers = {turn.id: number for number, turn in enumerate(whole.turns)}
        return [
            (numbers.get(t.parent), t.role, t.content, t.author, t.rating) for t in whole.turns
        ] + [numbers[whole.leaf], whole.title]

    assert shape(copied) == shape(exported)
    assert not {turn.id for turn in copied.turns} & {turn.id for turn in exported.turns}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "no conversation that lmapps exported"),
        ({"lmapps": "conversation", "turns": []}, "no turns"),
        ({"lmapps": "conversation", "turns": [3]}, "turn 1 must be an object"),
        ({"lmapps": "conversation", "turns": [{"id": "a", "role": "boss", "content": ""}]}, "role"),
        (
            {
                "lmapps": "conversation", "leaf": "a",
                "turns": [{"id": "a", "parent": "b", "role": "user", "content": ""}],
            },
            "the turn before it, 'b'",
        ),
        (
            {
                "lmapps": "conversation", "leaf": "c",
                "turns": [{"id": "a", "role": "user", "content": ""}],
            },
            "no turn 'c'",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_exported_conversation_is_named(data: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        conversation_from(data)


def test_a_conversation_reads_as_markdown(store: Store) -> None:
    made = talk(store, turns=2)
    text = store.load("ann", made).as_markdown()
    assert text == "# turn 0\n\n**You**\n\nturn 0\n\n**Model**\n\nturn 1\n"


def exported(**changes: Any) -> dict[str, Any]:
    """One turn that fits, but for the changes."""
    turn = {"id": "a", "role": "user", "content": "Hello", **changes}
    return {"lmapps": "conversation", "title": "T", "leaf": "a", "turns": [turn]}


@pytest.mark.parametrize(
    "data",
    [
        {**exported(), "leaf": ["a"]},
        {**exported(), "title": {"a": 1}},
        {**exported(), "turns": exported()["turns"] * 2},
        exported(parent=["q"]),
        exported(finish={}),
        exported(finish="so long that no column takes it"),
        exported(rating="high"),
        exported(id=["a"]),
        exported(role=["user"]),
        exported(author={}),
        exported(content="half a character: \ud83d"),
    ],
)
def test_a_column_that_does_not_fit_is_named_before_anything_is_kept(data: Any) -> None:
    conversation_from(exported())
    with pytest.raises(InputError, match=r"turn|title"):
        conversation_from(data)


def test_a_long_conversation_is_taken_in_in_one_piece(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [
        {"id": str(n), "parent": str(n - 1) if n else None, "role": "user", "content": f"turn {n}"}
        for n in range(20_000)
    ]
    whole = conversation_from({**exported(), "leaf": "19999", "turns": turns})
    made = store.take_in("ann", "chat", whole)
    assert said(store, made)[-1] == "turn 19999"
    broken = [*whole.turns, replace(whole.turns[0], id="x", content=None)]  # type: ignore
    with pytest.raises(StorageError):
        store.take_in("bob", "chat", replace(whole, turns=broken))
    assert store.list("bob", "chat") == []
    with store.database.reading() as connection:
        count = connection.exec_driver_sql("select count(*) from conversations").scalar()
    assert count == 1, "not a half one either"


def test_a_conversation_of_which_nothing_is_shown_is_taken_in_as_it_is(store: Store) -> None:
    made = talk(store, turns=2)
    store.show("ann", made, None)
    data = json.loads(json.dumps(store.load("ann", made).as_data()))
    assert data["leaf"] is None
    copied = store.load("ann", store.take_in("ann", "chat", conversation_from(data)))
    assert copied.leaf is None and copied.path() == []
    assert [turn.content for turn in copied.turns] == ["turn 0", "turn 1"]
    del data["leaf"]
    with pytest.raises(InputError, match="to end in"):
        conversation_from(data)
