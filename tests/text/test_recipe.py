"""A recipe makes the same data each time: cleaned, without repeats, split, and accounted for."""

from __future__ import annotations

import hashlib
import json
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmapps.__main__ import main
from lmapps.errors import DataError, SettingsError
from lmapps.text import parts
from lmapps.text.build import build_data
from lmapps.text.cleaning import cleaned, script_of, signature
from lmapps.text.hub import HubDataset
from lmapps.text.recipe import Clean, read_data_recipe
from lmapps.text.sources import read_records
from lmapps.words import words_of

WORDS = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "nrst"]


def text_of(seed: int, length: int = 60) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(length)) + "."


def write(file: Path, texts: list[str]) -> None:
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    texts = [text_of(seed) for seed in range(300)]
    almost = texts[0].replace(texts[0].split()[30], "other", 1)
    write(tmp_path / "a1.jsonl", [*texts[:150], texts[7].upper() + "  ", almost, "Too short."])
    write(tmp_path / "a2.jsonl", texts[150:])
    write(tmp_path / "b.jsonl", [text_of(seed) for seed in range(1000, 1100)] + ["今天天气好" * 20])
    held = [f"Before. {' '.join(texts[20].split()[10:30])} After.", text_of(9999)]
    write(tmp_path / "held.jsonl", held)

    def recipe(changes: str = "") -> Path:
        (tmp_path / "recipe.toml").write_text(
            f"""
            [clean]
            min_characters = 50
            languages = ["en"]
            [duplicates]
            near = 0.6
            [split]
            validation = 0.1
            test = 0.1
            [[sources]]
            name = "a"
            paths = ["a*.jsonl"]
            [[sources]]
            name = "b"
            paths = ["b.jsonl"]
            weight = 2.5
            [held_out]
            paths = ["held.jsonl"]
            {changes}
            """
        )
        return tmp_path / "recipe.toml"

    return recipe


def texts_in(file: Path) -> list[str]:
    return [record["text"] for record in read_records(file)]


def test_a_recipe_is_built_and_every_document_is_accounted_for(
    recipe: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = build_data(read_data_recipe(recipe("")), tmp_path / "out", processes=1)
    a, b = manifest["sources"]["a"], manifest["sources"]["b"]
    assert a["read"] == 302 and a["too short"] == 1
    assert a["duplicate"] == 1 and a["near duplicate"] == 1
    assert a["overlapping held-out text"] == 1 and a["dropped for overlap"] == 1
    assert a["train"] + a["validation"] + a["test"] == 299
    assert b["another language"] == 1 and b["read"] == 100
    train, held = texts_in(tmp_path / "out" / "train.jsonl"), []
    for split in ("validation", "test"):
        held += texts_in(tmp_path / "out" / f"{split}.jsonl")
    assert not set(train) & set(held) and len(held) == len(set(held))
    assert text_of(20) not in train + held and text_of(7) in train + held
    from_b = [text for text in train if text in {text_of(seed) for seed in range(1000, 1100)}]
    assert len(set(from_b)) == b["train"]
    assert 2.2 < len(from_b) / b["train"] < 2.8, "written two or three times, 2.5 on average"
    assert len(train) == manifest["splits"]["train"]["documents"]
    for split, told in manifest["splits"].items():
        written = (tmp_path / "out" / f"{split}.jsonl").read_bytes()
        assert told["sha256"] == hashlib.sha256(written).hexdigest()
    for file, told in (manifest["files"] | manifest["held_out"]).items():
        assert told == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    left = {"train.jsonl", "validation.jsonl", "test.jsonl", "manifest.json"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == left
    monkeypatch.setattr(parts, "PART_CHARACTERS", 20_000)  # one file keeps both busy
    again = build_data(read_data_recipe(recipe("")), tmp_path / "again", processes=2)
    assert again == manifest, "in another folder, in other parts, side by side: the same hashes"


def test_only_what_differs_in_white_space_and_capitals_is_an_exact_duplicate(
    tmp_path: Path,
) -> None:
    texts = ["***", "---", "a + b", "a - b", "if a:\n    b", "If  A:\n\tB", "今天", "今天！"]
    write(tmp_path / "t.jsonl", texts)
    write(tmp_path / "held.jsonl", ["!!!"])

    def built(near: float) -> dict[str, int]:
        (tmp_path / "r.toml").write_text(
            f"[duplicates]\nnear = {near}\n[[sources]]\nname = 't'\npaths = ['t.jsonl']\n"
            "[held_out]\npaths = ['held.jsonl']\n[split]\ntest = 0\nvalidation = 0"
        )
        recipe = read_data_recipe(tmp_path / "r.toml")
        found: dict[str, int] = build_data(recipe, tmp_path / "out", processes=1)["sources"]["t"]
        return found

    found = built(0)
    assert (found["read"], found["train"], found["duplicate"]) == (8, 7, 1)
    assert texts_in(tmp_path / "out" / "train.jsonl") == [*texts[:5], *texts[6:]]
    found = built(0.8)
    assert found["near duplicate"] == 2 and found["train"] == 5, "which are told by their words"


def test_overlap_may_be_reported_only(recipe: Callable[[str], Path], tmp_path: Path) -> None:
    manifest = build_data(read_data_recipe(recipe("drop = false")), tmp_path / "out", processes=1)
    tally = manifest["sources"]["a"]
    assert tally["overlapping held-out text"] == 1 and "dropped for overlap" not in tally
    assert tally["train"] + tally["validation"] + tally["test"] == 300


def test_overlap_of_a_recipes_own_splits_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [text_of(seed) for seed in range(200)]
    write(tmp_path / "t.jsonl", texts)
    (tmp_path / "r.toml").write_text(
        "[duplicates]\nnear = 0.8\n[split]\nvalidation = 0.1\ntest = 0.1\n"
        "[[sources]]\nname = 't'\npaths = ['t.jsonl']\n[clean]\nmin_characters = 100"
    )
    out = tmp_path / "out"

    def built() -> dict[str, int]:
        manifest = build_data(read_data_recipe(tmp_path / "r.toml"), out, processes=1)
        tally: dict[str, int] = manifest["sources"]["t"]
        return tally

    assert built()["overlapping validation or test"] == 0
    held = [texts_in(out / f"{split}.jsonl")[0].split() for split in ("validation", "test")]
    quotes = [" ".join(words[20:45]) for words in held]
    longer = [f"{text_of(seed, 30 + seed % 9)} {quotes[seed % 2]}" for seed in range(300, 340)]
    almost = [f"Oh {text}" for text in texts]  # left out, of either side
    write(tmp_path / "t.jsonl", [*texts, *longer, "Too short.", *almost])
    monkeypatch.setattr(parts, "PART_CHARACTERS", 3_000)
    found = built()
    with_a_quote = set(texts_in(out / "train.jsonl")) & set(longer)
    assert found["near duplicate"] == 200 and len(with_a_quote) > 20
    assert found["overlapping validation or test"] == len(with_a_quote)


def test_a_build_that_was_stopped_goes_on_with_the_parts_that_are_there(
    recipe: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_data(read_data_recipe(recipe("")), tmp_path / "whole", processes=1)
    made: list[str] = []
    make = parts.make_part

    def stopping(job: parts.Job) -> None:
        made.append(job.part.name)
        if len(made) == 3:
            raise KeyboardInterrupt
        make(job)

    monkeypatch.setattr(parts, "PART_CHARACTERS", 40_000)
    monkeypatch.setattr(parts, "make_part", stopping)
    with pytest.raises(KeyboardInterrupt):
        build_data(read_data_recipe(recipe("")), tmp_path / "out", processes=1)
    assert build_data(read_data_recipe(recipe("")), tmp_path / "out", processes=1) == whole
    assert made[3] == made[2] and len(set(made)) == len(made) - 1 == 3


def test_a_recipe_replaces_what_a_recipe_made_and_nothing_else(
    recipe: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "mine.txt").write_text("mine")
    mine = tmp_path / "train.jsonl"
    write(mine, [text_of(1)])
    before = mine.read_text()
    with pytest.raises(DataError, match=r"train.jsonl was made by no recipe .*: choose another"):
        build_data(read_data_recipe(recipe("")), tmp_path, processes=1)
    own = "[[sources]]\nname = 'own'\npaths = ['train.jsonl']"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"reads .*train.jsonl, which would be replaced"):
        build_data(read_data_recipe(recipe(own)), Path(), processes=1)
    assert mine.read_text() == before
    mine.unlink()
    for _ in range(2):
        build_data(read_data_recipe(recipe("")), Path(), processes=1)
    assert (tmp_path / "parts" / "mine.txt").read_text() == "mine" and mine.exists()
    with pytest.raises(DataError, match="would be replaced"):
        build_data(read_data_recipe(recipe(own)), tmp_path, processes=1)


def test_the_command_builds_and_says_what_came_of_it(
    recipe: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "--recipe", str(recipe("")), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "near duplicate 1" in said and "overlapping held-out text 1" in said
    assert main(["data", "--recipe", str(recipe(""))]) == 2


@pytest.mark.parametrize(
    ("rules", "text", "reason"),
    [
        (Clean(min_characters=5), " a \n\n\n", "too short"),
        (Clean(max_characters=5), "longer than that", "too long"),
        (Clean(languages=("zh",)), "English", "another language"),
        (Clean(languages=("zh", "en")), "今天天气好", ""),
        (Clean(min_letters=0.5), "12 34 56 a", "too few letters"),
        (Clean(), "as it is", ""),
    ],
)
def test_a_document_is_left_out_for_a_reason(rules: Clean, text: str, reason: str) -> None:
    assert cleaned(text, rules)[1] == reason


def test_cleaning_takes_away_white_space_and_nothing_else() -> None:
    assert cleaned("\n a  b \t\n\n\n\n  c\n", Clean())[0] == "a  b\n\n  c"
    assert cleaned("a \n", Clean(whitespace=False))[0] == "a \n"
    assert [script_of(text) for text in ("Grüße", "今天 ok", "Привет", "123")] == ["en", "", "", ""]


def test_a_signature_estimates_the_share_of_pieces_in_common() -> None:
    words = words_of(text_of(1, 400))
    for kept in (100, 200, 300, 400):
        other = words[:kept] + words_of(text_of(2, 400))[: 400 - kept]
        mine, theirs = (
            {tuple(some[n : n + 5]) for n in range(len(some) - 4)} for some in (words, other)
        )
        share = len(mine & theirs) / len(mine | theirs)
        assert (signature(words) == signature(other)).mean() == pytest.approx(share, abs=0.2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = 1", "unknown key 'x'; known: sources"),
        ("", r"names no \[\[sources\]\]"),
        ("[[sources]]\npath = ['a']", "source 1: unknown key 'path'"),
        ("[[sources]]\nname = 'n'", "source n has no files"),
        ("[[sources]]\npaths = ['nowhere*.txt']", "no file matches .*nowhere"),
        ("[[sources]]\npaths = ['t.txt']\nweight = 0", "weight must be above 0"),
        ("[clean]\nlanguages = ['xx']\n[[sources]]\npaths = ['t.txt']", "en, zh, got 'xx'"),
        ("[[", "cannot be read"),
        ("clean = true\n[[sources]]\npaths = ['t.txt']", r"clean must be a table, \[clean\]"),
        (
            "[clean]\nmin_characters = '200'\n[[sources]]\npaths = ['t.txt']",
            "whole number .*'200'",
        ),
        (
            "[split]\ntest = -0.1\n[[sources]]\npaths = ['t.txt']",
            "at least 0, got -0.1",
        ),
        ("[clean]\nlanguages = 'en'\n[[sources]]\npaths = ['t.txt']", "a list of texts"),
        ("[[sources]]\npaths = 't.txt'", "paths must be a list of texts"),
        ("[[sources]]\npaths = ['t.txt']\nweight = 'two'", "weight must be a number"),
        ("[sources]\npaths = ['t.txt']", "two brackets"),
        ("[[sources]]\ndataset = 'd'\npaths = ['t.txt']", "source 1: unknown key 'paths'"),
        ("[[sources]]\ndataset = 'd'\nsplit = 3", "source 1: split must be a text, got 3"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_a_sentence(
    tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "t.txt").write_text("text")
    (tmp_path / "r.toml").write_text(content)
    with pytest.raises((SettingsError, DataError), match=words):
        read_data_recipe(tmp_path / "r.toml")
    with pytest.raises(SettingsError, match="there is no recipe"):
        read_data_recipe(tmp_path / "missing.toml")


def test_the_recipe_of_the_page_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.S)
    for name in ("texts/wiki.jsonl", "texts/books/a.txt", "heldout/b.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": text_of(1)}))
    (tmp_path / "r.toml").write_text(text)
    wiki, books, web = read_data_recipe(tmp_path / "r.toml").sources
    assert (wiki.weight, books.weight) == (1, 2)
    assert web.dataset == HubDataset("owner/name", "en", "train", "main", "body")


def test_a_recipe_that_leaves_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("text")
    (tmp_path / "r.toml").write_text("[clean]\nmin_characters = 99\n[[sources]]\npaths=['t.txt']")
    with pytest.raises(DataError, match=r"leaves no document to train on: .*'too short': 1"):
        build_data(read_data_recipe(tmp_path / "r.toml"), tmp_path / "out", processes=1)


def test_a_killed_process_is_told_as_a_sentence_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "make_part", signal.raise_signal)
    kill: Any = [signal.SIGKILL]
    with pytest.raises(DataError, match=r"one of the 2 processes .* was killed.*start again"):
        parts._make_all(kill, 2)
