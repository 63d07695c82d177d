"""Presets and runs are kept for their owner, and a person's own names do what they should."""

from __future__ import annotations

from typing import Any

import pytest

from lmapps.errors import InputError
from lmapps.server.store import presets as presets_module
from lmapps.server.store import runs as runs_module
from lmapps.server.store.database import Database
from lmapps.server.store.made import Made, made_from
from lmapps.server.store.presets import DECODING, Presets, fields_of
from lmapps.server.store.runs import NoSuchRun, Runs


@pytest.fixture
def database(database_url: str) -> Any:
    database = Database(database_url)
    yield database
    database.close()


def test_a_preset_is_saved_overwritten_and_deleted_by_name(database: Database) -> None:
    presets = Presets(database)
    assert presets.save("ann", DECODING, "  very   calm ", {"temperature": 0.1}) == "very calm"
    presets.save("ann", DECODING, "another", {})
    presets.save("ann", DECODING, "very calm", {"temperature": 0.2})
    assert presets.of("ann", DECODING) == {"another": {}, "very calm": {"temperature": 0.2}}
    presets.delete("ann", DECODING, "another")
    assert list(presets.of("ann", DECODING)) == ["very calm"]
    with pytest.raises(InputError, match="nothing is saved under the name 'another'"):
        presets.delete("ann", DECODING, "another")


def test_presets_of_others_and_of_other_kinds_are_apart(database: Database) -> None:
    presets = Presets(database)
    presets.save("ann", DECODING, "mine", {"top_p": 0.5})
    presets.save("ann", fields_of("chat"), "mine", {"persona": "a pirate"})
    assert presets.of("ann", fields_of("chat")) == {"mine": {"persona": "a pirate"}}
    assert presets.of("bob", DECODING) == {} == presets.of("ann", fields_of("other"))
    with pytest.raises(InputError):
        presets.delete("bob", DECODING, "mine")


def test_what_cannot_be_saved_says_why(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets_module, "MOST", 2)
    presets = Presets(database)
    for name in ("", "  ", "x" * 61):
        with pytest.raises(InputError, match="a name has 1 to 60 characters"):
            presets.save("ann", DECODING, name, {})
    with pytest.raises(InputError, match="more than 100000: shorten it"):
        presets.save("ann", fields_of("chat"), "long", {"persona": "x" * 100_000})
    presets.save("ann", DECODING, "one", {})
    presets.save("ann", DECODING, "two", {})
    presets.save("ann", DECODING, "two", {"top_k": 3})
    with pytest.raises(InputError, match="2 are saved already"):
        presets.save("ann", DECODING, "three", {})


def test_a_run_is_there_from_its_first_word_and_ends_as_it_did(database: Database) -> None:
    runs = Runs(database)
    made = runs.begin("ann", "news", {"headline": "A storm \0 \ud83d"})
    assert [(run.reply, run.finish) for run in runs.last("ann", "news")] == [("", None)]
    runs.grow(made, "It rained.", "stop", Made(preset="calm", tokens=4))
    (run,) = runs.last("ann", "news")
    assert run == runs.load("ann", made) and run.reply == "It rained."
    assert (run.finish, run.made.preset, run.made.tokens) == ("stop", "calm", 4)
    assert runs.last("bob", "news") == [] == runs.last("ann", "code")
    with pytest.raises(NoSuchRun):
        runs.load("bob", made)


def test_the_list_is_cleared_and_one_clearing_is_taken_back(database: Database) -> None:
    runs = Runs(database)
    first = runs.begin("ann", "news", {"headline": "one"})
    runs.clear("ann", "news")
    second = runs.begin("ann", "news", {"headline": "two"})
    cleared = runs.clear("ann", "news")
    assert runs.last("ann", "news") == []
    runs.restore("bob", "news", cleared)
    runs.restore("ann", "news", cleared)
    assert [run.id for run in runs.last("ann", "news")] == [second]
    assert runs.load("ann", first).fields == {"headline": "one"}


def test_old_runs_go_one_persons_and_one_forms_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "KEPT", 3)
    runs = Runs(database)
    other = runs.begin("ann", "code", {})
    theirs = runs.begin("bob", "news", {})
    made = [runs.begin("ann", "news", {"number": n}) for n in range(5)]
    assert [run.id for run in runs.last("ann", "news")] == made[:1:-1]
    assert runs.load("ann", other) and runs.load("bob", theirs)


def test_how_a_reply_was_made_comes_back_and_what_does_not_fit_is_left_out() -> None:
    made = Made({"persona": "a pirate"}, "pirate", "", {"top_k": 3}, "tiny", 9, 4, 0.5, 1.5)
    assert made_from(made.as_data()) == made and Made().as_data() == {}
    assert made.tokens_per_second == 2.0 and Made(tokens=1, seconds=2.0).tokens_per_second is None
    wrong: list[Any] = [None, 3, [1], {"tokens": "4", "fields": [], "unknown": 1, "model": None}]
    assert all(made_from(data) == Made() for data in wrong)
