"""What a person brings and chooses on a form: kept, checked, and turned into a run's settings."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmapps.errors import DataError, InputError, SettingsError
from lmapps.training import foresee
from lmapps.training.draft import Draft, check_memory, settings_of
from lmapps.training.texts import check_enough, data_folder, keep, kept, place_of

STORY = "The cat sat on the mat. " * 100


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("LMAPPS_HOME", str(home))
    return home


def test_what_was_pasted_and_uploaded_is_kept_and_found_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(STORY)
    first = keep("mine", STORY, [tmp_path / "a.txt", tmp_path / "a.txt"])
    again = keep("mine", STORY, [])
    assert first and sorted(f.name for f in first.iterdir()) == ["a-2.txt", "a.txt", "pasted.txt"]
    assert again and again.name == "mine-2" and kept() == ["mine", "mine-2"]
    assert check_enough([place_of("mine")]) == 3 * len(STORY)
    assert keep("nothing", "  ", []) is None


def test_a_file_that_is_no_text_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"MZ\0\1")
    with pytest.raises(DataError, match="binary"):
        keep("mine", STORY, [tmp_path / "a.txt"])
    (tmp_path / "a.exe").write_text(STORY)
    with pytest.raises(DataError, match="not of a kind that can be read"):
        keep("mine", "", [tmp_path / "a.exe"])
    assert not data_folder().exists() or not list(data_folder().iterdir())


def test_too_little_text_and_none_are_sentences() -> None:
    keep("short", "Hello", [])
    with pytest.raises(DataError, match="5 bytes of text, too few"):
        check_enough([place_of("short")])
    with pytest.raises(DataError, match="no text to train on"):
        check_enough([])


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.txt", "mine/../../x", "", "."])
def test_a_place_outside_the_data_folder_is_refused(home: Path, name: str) -> None:
    keep("mine", STORY, [])
    (home / "secret.txt").write_text(STORY)
    with pytest.raises(DataError, match="outside the data folder"):
        place_of(name)
    with pytest.raises(DataError, match="outside the data folder"):
        settings_of(Draft("x", more=f'data = ["{name}"]'), home)


def test_a_link_of_the_operators_leads_out(home: Path, tmp_path: Path) -> None:
    (tmp_path / "large.txt").write_text(STORY)
    data_folder().mkdir(parents=True)
    (data_folder() / "linked.txt").symlink_to(tmp_path / "large.txt")
    assert kept() == ["linked.txt"] and place_of("linked.txt").exists()


def test_a_draft_becomes_settings_and_a_recipe_wins(home: Path) -> None:
    keep("mine", STORY, [])
    plain = settings_of(Draft("a", ["mine"], body="gru", size="small", minutes=5), home)
    assert (plain.model, plain.size, plain.minutes) == ("gru", "small", 5)
    assert plain.data == (str(data_folder() / "mine"),) and plain.out == str(home / "a")
    recipe = 'out = "elsewhere"\nmodel = "lstm"\nsteps = 7\ndropout = 0.2'
    changed = settings_of(Draft("a", ["mine"], body="gru", more=recipe), home)
    assert (changed.model, changed.steps, changed.minutes) == ("lstm", 7, 0)
    assert changed.dropout == 0.2 and changed.out == str(home / "a")


def test_plugins_start_from_a_checkpoint_and_take_records(
    home: Path, tiny_checkpoint: Callable[[str], Any]
) -> None:
    tiny_checkpoint("gru").save(home / "checkpoints" / "base")
    keep("mine", STORY, [])
    draft = Draft("a", ["chat=mine"], apps=["chat"], start_from="base")
    chosen = settings_of(draft, home)
    assert chosen.start_from == str(home / "checkpoints" / "base")
    assert chosen.data == (f"chat={data_folder() / 'mine'}",)
    with pytest.raises(SettingsError, match=r"no checkpoint '\.\./base'"):
        settings_of(Draft("a", ["mine"], start_from="../base"), home)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "a/b"}, "a name has letters"),
        ({"more": "dropout = "}, "the further settings cannot be read"),
        ({"more": "dropuot = 1"}, "unknown setting 'dropuot'"),
        ({"more": "data = 3"}, "data is a list"),
        ({"minutes": -1}, "minutes must be between"),
        ({"size": "huge"}, "size must be one of"),
    ],
)
def test_what_does_not_fit_is_a_sentence(home: Path, changes: Any, said: str) -> None:
    keep("mine", STORY, [])
    with pytest.raises(InputError, match=said):
        settings_of(Draft(**{"name": "a", "places": ["mine"], **changes}), home)


def test_a_size_that_does_not_fit_memory_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep("mine", STORY, [])
    chosen = settings_of(Draft("a", ["mine"], size="large"), home)
    monkeypatch.setattr("lmapps.training.forecast.room", lambda device: 10**9)
    with pytest.raises(SettingsError, match=r"at least 1\.\d GB to train, and 1\.0 GB are free"):
        check_memory(chosen)
    check_memory(settings_of(Draft("a", ["mine"], size="tiny"), home))


def test_memory_and_time_are_foreseen(home: Path) -> None:
    keep("mine", STORY, [])
    more = "context = 32\nvocab_size = 300\nlayers = 1\nwidth = 32\nbatch_tokens = 256"
    chosen = settings_of(Draft("a", ["mine"], minutes=1, more=more), home)
    found = foresee.foresee(chosen, len(STORY))
    assert found.parameters > 10_000 and found.context == 32 and found.fits
    assert found.bytes > 10**7 and found.seconds == pytest.approx(60, rel=0.2)
    assert found.passes and found.passes == pytest.approx(found.steps * 256 / (2400 / 3.5))
    epoch = foresee.foresee(dataclasses.replace(chosen, minutes=0), len(STORY))
    assert epoch.steps == 3 and epoch.passes == pytest.approx(1, rel=0.2)
    assert not home.joinpath("a").exists(), "nothing is written"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise SystemExit('lmapps: too large')", "cannot be foreseen: lmapps: too large"),
        ("import os; os.abort()", "cannot be foreseen: memory does not suffice"),
        ("import time; time.sleep(60)", "took more than 0.5 seconds"),
    ],
)
def test_what_cannot_be_foreseen_is_a_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    monkeypatch.setattr(foresee, "PROGRAM", [sys.executable, "-c", program])
    monkeypatch.setattr(foresee, "SECONDS", 0.5 if "sleep" in program else 60)
    with pytest.raises(SettingsError, match=said):
        foresee.ask(settings_of(Draft("a"), home), 0)
