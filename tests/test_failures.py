"""Failures in use are remembered until their file changes."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lmapps.failures import FILE, MOST, Failure, remember, remembered


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def failing(folder: Path, name: str = "a.py", reason: str = "it failed") -> Failure:
    (folder / name).write_text("x = 1\n")
    os.utime(folder / name, (time.time() - 60, time.time() - 60))
    return Failure(str(folder / name), 3, reason, "Correct that line.")


def test_the_last_failure_of_each_file_is_remembered_the_newest_first(tmp_path: Path) -> None:
    for failure in (failing(tmp_path, reason="first"), failing(tmp_path, "b.py")):
        remember(failure)
    remember(failing(tmp_path, reason="last"))
    assert [failure.reason for failure in remembered()] == ["last", "it failed"]


def test_a_file_that_was_changed_or_is_gone_has_not_failed(tmp_path: Path) -> None:
    remember(failing(tmp_path))
    remember(failing(tmp_path, "b.py"))
    os.utime(tmp_path / "a.py", (time.time() + 5, time.time() + 5))
    (tmp_path / "b.py").unlink()
    assert remembered() == []


def test_it_is_bounded_and_nothing_that_is_broken_stops_anybody(home: Path, tmp_path: Path) -> None:
    for number in range(MOST + 5):
        remember(failing(tmp_path, f"p{number}.py"))
    assert len(remembered()) == MOST
    (home / FILE).write_text('{"x": 3, "y": [')
    assert remembered() == []
    (home / FILE).write_text('{"x": 3, "y": {"file": 1}}')
    assert remembered() == []
    (home / FILE).unlink()
    (home / FILE).mkdir()
    remember(failing(tmp_path))
    assert remembered() == []


def test_what_an_exception_quotes_is_told_but_not_remembered(home: Path, tmp_path: Path) -> None:
    failure = replace(failing(tmp_path), details="invalid literal: 'my password'")
    assert "my password" in str(failure)
    remember(failure)
    assert remembered() == [failing(tmp_path)]
    assert "password" not in (home / FILE).read_text()
