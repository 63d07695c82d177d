"""What people corrected or liked becomes rows to train on, some of them held out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmapps.__main__ import main
from lmapps.discovery import discover
from lmapps.errors import InputError
from lmapps.server.store.feedback import _place, feedback, held_out, rows_of
from lmapps.server.store.made import Made
from lmapps.server.store.store import Store
from lmapps.training.examples import examples_of, render


def talk(store: Store, *turns: str, owner: str = "ann") -> tuple[str, list[str]]:
    """A conversation of these turns, a person's and a model's by turns; its id and theirs."""
    made, ids = store.begin(owner, "chat"), list[str]()
    for number, text in enumerate(turns):
        role, author = ("assistant", "model") if number % 2 else ("user", "person")
        parent = ids[-1] if ids else None
        ids.append(store.add(owner, made, parent, role, text, author).id)  # type: ignore[arg-type]
    return made, ids


def texts(rows: Any) -> list[list[str]]:
    return [[message["content"] for message in row["messages"]] for row in rows]


def rows(store: Store, conversation: str) -> list[list[str]]:
    return texts(rows_of(store.load("ann", conversation))[0])


def test_a_liked_reply_is_a_row_with_what_was_said_before(store: Store) -> None:
    made, ids = talk(store, "one", "uno", "two", "dos", "three", "tres")
    assert rows(store, made) == []
    store.rate("ann", made, ids[3], 1)
    assert rows(store, made) == [["one", "uno", "two", "dos"]]
    store.rate("ann", made, ids[1], 1)
    assert rows(store, made) == [["one", "uno", "two", "dos"]], "the longer row has it"


def test_a_correction_is_a_row_and_one_that_was_corrected_again_is_none(store: Store) -> None:
    made, ids = talk(store, "one", "wrong")
    for text in ("better", "best"):
        store.add("ann", made, ids[0], "assistant", text, "person")
    assert rows(store, made) == [["one", "best"]]


def test_a_row_with_a_disliked_reply_in_it_is_left_out_and_counted(store: Store) -> None:
    made, ids = talk(store, "one", "uno", "two", "dos")
    store.rate("ann", made, ids[1], -1)
    store.rate("ann", made, ids[3], 1)
    assert rows_of(store.load("ann", made)) == ([], 1)
    corrected = store.add("ann", made, ids[0], "assistant", "ein", "person")
    store.rate("ann", made, corrected.id, -1)
    assert rows_of(store.load("ann", made)) == ([], 1), "the person took it back"


def test_what_is_deleted_or_somebody_elses_or_another_plugins_is_not_there(store: Store) -> None:
    made, ids = talk(store, "one", "uno")
    store.rate("ann", made, ids[1], 1)
    theirs, others = talk(store, "eins", "zwei", owner="bob")
    store.rate("bob", theirs, others[1], 1)
    assert texts(feedback(store, "chat", "ann", 0.0).train) == [["one", "uno"]]
    assert len(feedback(store, "chat", share=0.0).train) == 2
    assert not feedback(store, "other", share=0.0).train
    store.delete("bob", theirs)
    assert len(feedback(store, "chat", share=0.0).train) == 1


def test_a_row_has_the_persona_with_which_the_reply_was_made(store: Store) -> None:
    made, ids = talk(store, "one", "uno")
    store.grow(ids[1], "uno", "stop", Made({"persona": "A pirate."}))
    store.add("ann", made, ids[0], "assistant", "ahoy!", "person")
    ((row,), _) = rows_of(store.load("ann", made))
    assert row["persona"] == "A pirate."
    plugin = discover().get("chat")
    (example,) = plugin.examples_from([row])
    assert [turn["content"] for turn in plugin.conversation(example)] == [
        "A pirate.",
        "one",
        "ahoy!",
    ]


NAMES = st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=30)


@given(names=NAMES, more=NAMES, share=st.floats(0, 0.9))
@example(names=["8", "9"], more=["0"], share=0.2)  # both would be held out
def test_more_conversations_move_none_that_was_trained_on(
    names: list[str], more: list[str], share: float
) -> None:
    before = held_out(names, share)
    trained = set(names) - before
    moved = trained & held_out(sorted({*names, *more}), share)
    if not all(_place(name) < share for name in names):
        assert not moved
    assert len(moved) < 2
    assert share == 0 or before
    assert trained or len(names) == 1


def test_all_rows_of_a_conversation_are_on_one_side(store: Store) -> None:
    for number in range(40):
        made, ids = talk(store, str(number), "a reply")
        for text in ("another", "a third"):
            other = store.add("ann", made, ids[0], "assistant", text, "model")
            store.rate("ann", made, other.id, 1)
    found = feedback(store, "chat")
    sides = [{row[0] for row in texts(side)} for side in (found.train, found.held_out)]
    assert len(sides[0]) + len(sides[1]) == 40 and not sides[0] & sides[1]
    assert 2 <= len(sides[1]) <= 20
    with pytest.raises(InputError, match=r"at least 0 and below 1, got 1\.5"):
        feedback(store, "chat", share=1.5)


def test_the_rows_are_what_training_the_chat_plugin_takes(
    store: Store,
    database_url: str,
    tmp_path: Path,
    tiny_checkpoint: Callable[[str], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(9):
        made, ids = talk(store, f"question {number}", "wrong")
        store.add("ann", made, ids[0], "assistant", f"right {number}", "person")
    out = tmp_path / "feedback"
    words = ["data", "--feedback", "chat", "--out", str(out), "--database", database_url]
    assert main(words) == 0
    assert "--data chat=" in capsys.readouterr().out
    lines = {
        name: (out / name).read_text().splitlines() for name in ("train.jsonl", "held_out.jsonl")
    }
    assert sum(map(len, lines.values())) == 9 and all(lines.values())
    assert json.loads(lines["train.jsonl"][0])["messages"][1]["role"] == "assistant"
    plugin, checkpoint = discover().get("chat"), tiny_checkpoint("gru")
    replies = [
        checkpoint.tokenizer.decode([i for i, own in zip(ids, mask, strict=True) if own])
        for example in examples_of(plugin, [str(out / "train.jsonl")])
        if example.record
        for ids, mask in [render(plugin, example, checkpoint.template, 1000) or ([], [])]
    ]
    assert len(replies) == len(lines["train.jsonl"])
    assert all("right" in reply and "wrong" not in reply for reply in replies)


def test_without_any_feedback_the_command_says_how_to_give_some(
    store: Store, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "--feedback", "chat", "--database", database_url]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "nobody has corrected or liked a reply of 'chat' yet" in capsys.readouterr().err
    assert main(words) == 2
    assert "--out is needed" in capsys.readouterr().err
    made, ids = talk(store, "one", "uno")
    store.rate("ann", made, ids[1], 1)
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "all that was corrected or liked is held out" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "out"), "--held-out", "0"]) == 0
