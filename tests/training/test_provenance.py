"""A report says by which code it was made, and says nothing that is not so."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lmapps import plugin
from lmapps.loading import load
from lmapps.plugin import Plugin
from lmapps.training import start
from lmapps.training.examples import _digest, hash_of_data
from lmapps.training.provenance import commit_of, plugin_hashes, sources_hash
from lmapps.training.settings import TrainSettings


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Somebody's own, with an environment in it that git does not keep."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    files = {"mine.py": "", ".gitignore": ".venv\n", ".venv/lmapps/report.py": ""}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "x", "--no-gpg-sign"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    return tmp_path


def test_a_commit_is_said_only_of_a_repository_that_keeps_the_file(repository: Path) -> None:
    commit = commit_of(repository / "mine.py")
    assert commit is not None and len(commit) == 12
    assert commit_of(repository / ".venv" / "lmapps" / "report.py") is None
    (repository / "mine.py").write_text("x = 1\n")
    assert commit_of(repository / "mine.py") == f"{commit}-dirty"


def test_the_hash_of_sources_is_of_their_names_and_contents(tmp_path: Path) -> None:
    for name in ("b.py", "a/c.cpp", "a/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    before = sources_hash(tmp_path)
    (tmp_path / "a" / "d.txt").write_text("of no code")
    assert sources_hash(tmp_path) == before
    (tmp_path / "b.py").rename(tmp_path / "a" / "b.py")
    moved = sources_hash(tmp_path)
    (tmp_path / "a" / "c.cpp").write_text("other")
    assert len({before, moved, sources_hash(tmp_path)}) == 3


def test_a_plugins_hash_is_that_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "echo.py"
    source = (
        "from lmapps import plugin\n\n\n@plugin\ndef echo(text: str) -> str:\n    return text\n"
    )
    file.write_text(source)
    echo = load(file)
    assert plugin_hashes([echo]) == {"echo": hashlib.sha256(source.encode()).hexdigest()}
    file.unlink()
    assert plugin_hashes([echo]) == {}


def made(reply: str) -> Plugin:
    @plugin
    def echo(text: str) -> str:
        """Echo."""
        return text

    @echo.dataset
    def own() -> object:
        return [({"text": "a"}, reply)]

    return echo


def test_the_hash_of_data_is_of_a_plugins_own_examples_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    files = [str(tmp_path / "a.jsonl")]
    some, same, other = (
        [_digest(echo, example) for example in echo.own_examples()]
        for echo in (made("A"), made("A"), made("B"))
    )
    assert hash_of_data([], some) == hash_of_data([], same)
    empty = hashlib.sha256().hexdigest()
    found = {hash_of_data([], some), hash_of_data([], other), hash_of_data(files, []),
             hash_of_data(files, some), hash_of_data(files, other), empty}  # fmt: skip
    assert len(found) == 6


def test_a_report_names_the_code_that_trained_not_what_lies_there_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("The cat sat on the mat, and the dog sat on the cat. " * 100)
    lies_there = ["at the start"]
    prepare = start.prepare

    def changed(*given: Any) -> Any:
        lies_there[0] = "later"
        return prepare(*given)

    monkeypatch.setattr("lmapps.training.provenance.sources_hash", lambda: lies_there[0])
    monkeypatch.setattr(start, "prepare", changed)
    values = {"data": [str(tmp_path / "a.txt")], "out": str(tmp_path / "m"), "steps": 1}
    shape = {"vocab_size": 300, "context": 32, "layers": 1, "width": 32, "mixed_precision": "no"}
    report = start.run_training(TrainSettings.from_values(values | shape))
    assert report["code_sha256"] == "at the start"
