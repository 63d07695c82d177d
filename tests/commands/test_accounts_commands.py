"""`lmapps users` and `lmapps keys`, as an operator types them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from lmapps.__main__ import main
from lmapps.server.accounts.users import Users
from lmapps.server.store.database import Database


class Typed:
    """A terminal's words -> exit code and what is printed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
        self.url = f"sqlite:///{folder / 'test.db'}"
        self._patch, self._capsys = monkeypatch, capsys

    def __call__(self, words: str, typed: str = "") -> tuple[int, str]:
        self._patch.setattr("sys.stdin", io.StringIO(typed))
        code = main([*words.split(), "--database", self.url])
        told = self._capsys.readouterr()  # type: ignore[attr-defined]
        return code, told.out + told.err


@pytest.fixture
def lmapps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Typed:
    return Typed(tmp_path, monkeypatch, capsys)


def test_users_are_added_listed_changed_and_removed(lmapps: Typed) -> None:
    assert "There are no users" in lmapps("users list")[1]
    code, told = lmapps("users add ann", "correct horse\n")
    assert code == 0 and "ann is there now, as an admin" in told and "asks everybody" in told
    code, told = lmapps("users add bob", "battery staple\n")
    assert code == 0 and "as a user" in told and "asks everybody" not in told
    assert lmapps("users limits bob --tokens-a-day 5000 --requests-a-minute 0")[0] == 0
    rows = lmapps("users list")[1].splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["ann", "bob"]
    assert rows[1].split()[-2:] == ["usual", "usual"] and "5,000 no limit" in " ".join(
        rows[2].split()
    )
    assert lmapps("users limits bob --tokens-a-day usual")[0] == 0
    assert lmapps("users role ann user") == (
        2, "lmapps: ann is the only admin: make somebody else one first\n",
    )  # fmt: skip
    assert lmapps("users password bob", "another one\n")[0] == 0
    assert Users(Database(lmapps.url)).known("bob", "another one")
    code, told = lmapps("users remove bob")
    assert code == 2 and "say --yes" in told
    assert lmapps("users remove bob --yes") == (0, "bob is gone, with 0 conversations\n")


@pytest.mark.parametrize(
    ("words", "typed", "told"),
    [
        ("users add bob", "short\n", "between 8 and 256 characters, got 5"),
        ("users add ann", "correct horse\n", "there is a user 'ann' already"),
        ("users add bob --role boss", "correct horse\n", "one of user, admin, got 'boss'"),
        ("users remove eve --yes", "", "there is no user 'eve'"),
        ("users password eve", "correct horse\n", "there is no user 'eve'"),
        ("users limits ann", "", "give --requests-a-minute, --tokens-a-day or both"),
        ("users limits ann --tokens-a-day -5", "", "a limit is a whole number, or usual, got '-5'"),
        ("keys create eve laptop", "", "there is no user 'eve'"),
        ("keys revoke ann laptop", "", "ann has no key 'laptop'"),
        ("keys limits ann laptop --tokens-a-day 5", "", "ann has no key 'laptop'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    lmapps: Typed, words: str, typed: str, told: str
) -> None:
    lmapps("users add ann", "correct horse\n")
    code, said = lmapps(words, typed)
    assert code == 2 and told in said and said.count("\n") == 1


def test_a_key_is_printed_once_and_listed_by_name(lmapps: Typed) -> None:
    lmapps("users add ann", "correct horse\n")
    key = lmapps("keys create ann laptop")[1].strip()
    users = Users(Database(lmapps.url))
    assert users.of_key(key)
    listed = lmapps("keys list ann")[1]
    assert listed.startswith("laptop ") and key not in listed and "never" not in listed
    assert lmapps("keys revoke ann laptop")[0] == 0 and users.of_key(key) is None
    assert lmapps("keys list ann") == (0, "")
