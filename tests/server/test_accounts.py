"""Accounts: nothing in the database lets anybody in, and what is one's own stays so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sql
from hypothesis import given, settings
from hypothesis import strategies as st

from lmapps.errors import InputError, LmappsError
from lmapps.server.accounts import secrets, users
from lmapps.server.accounts.attempts import SPAN_SECONDS, Attempts, limits_of
from lmapps.server.accounts.users import SEEN_SECONDS, SESSION_SECONDS, Users, cleaned_name
from lmapps.server.store.conversation import NoSuchConversation
from lmapps.server.store.presets import DECODING, Presets
from lmapps.server.store.runs import Runs
from lmapps.server.store.store import Store
from lmapps.server.store.tables import KEYS, METADATA, SESSIONS, USERS

PASSWORD = "correct horse"


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same algorithm with less work: what it costs is not tested here."""
    from argon2 import PasswordHasher

    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(secrets, "_hasher", lambda: quick)
    secrets._nobodys.cache_clear()


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


@pytest.fixture
def people(store: Store) -> Users:
    """Ann, the first, and Bob."""
    made = Users(store.database)
    made.add("ann", PASSWORD)
    made.add("bob", PASSWORD + " of Bob")
    return made


class Clock:
    """A time that goes when it is told to."""

    def __init__(self, now: float = 1e9) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


def test_the_first_user_is_an_admin_and_the_only_admin_stays_one(people: Users) -> None:
    assert [(row.name, row.role) for row in people.everybody()] == [
        ("ann", "admin"), ("bob", "user"),
    ]  # fmt: skip
    with pytest.raises(InputError, match="ann is the only admin"):
        people.set_role("ann", "user")
    people.set_role("bob", "admin")
    people.set_role("ann", "user")
    assert people.find("ann").role == "user"
    with pytest.raises(InputError, match="one of user, admin, got 'boss'"):
        people.set_role("bob", "boss")


def test_a_password_lets_in_whoever_has_it_and_nobody_else(people: Users) -> None:
    assert people.known("ann", PASSWORD) == people.known(" ANN ", PASSWORD) != None  # noqa: E711
    for name, password in (
        ("ann", PASSWORD + " "), ("ann", ""), ("bob", PASSWORD), ("eve", PASSWORD), ("", ""),
        ("ann", "x" * 100_000), ("ann", "\0"), ("a" * 9999, PASSWORD),
    ):  # fmt: skip
        assert people.known(name, password) is None, (name, password[:20])


def test_a_name_that_nobody_has_is_hashed_as_long_as_one_that_somebody_has(
    people: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, hasher = list[str](), secrets._hasher()

    class Watched:
        def verify(self, hashed: str, password: str) -> bool:
            tried.append(hashed.rpartition("$")[0].rpartition("$")[0])  # settings, without the salt
            return bool(hasher.verify(hashed, password))

        def hash(self, password: str) -> str:
            return str(hasher.hash(password))

    monkeypatch.setattr(secrets, "_hasher", lambda: Watched())
    assert people.known("ann", "wrong one") is None and people.known("eve", "wrong one") is None
    assert len(tried) == 2 and tried[0] == tried[1] and "argon2id" in tried[0]


@pytest.mark.parametrize(
    ("name", "password", "words"),
    [
        ("ann", PASSWORD, "there is a user 'ann' already"),
        ("ＡＮＮ", PASSWORD, "there is a user 'ann' already"),
        ("", PASSWORD, "a user's name has"),
        ("a b", PASSWORD, "a user's name has"),
        ("<script>", PASSWORD, "a user's name has"),
        ("x" * 65, PASSWORD, "a user's name has"),
        ("eve", "short", "between 8 and 256 characters, got 5"),
        ("eve", "x" * 257, "got 257"),
        ("eve@example.org", "Eve@Example.org", "must not be the name"),
    ],
)
def test_an_account_that_cannot_be_is_refused_with_the_reason(
    people: Users, name: str, password: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        people.add(name, password)
    assert len(people.everybody()) == 2
    assert cleaned_name("王.小明") == "王.小明"


def everything_in(store: Store) -> str:
    """All that the database holds, as text."""
    with store.database.reading() as connection:
        rows = [connection.execute(sql.select(table)).all() for table in METADATA.sorted_tables]
    return repr(rows)


def test_nothing_that_lets_somebody_in_is_in_the_database(store: Store, people: Users) -> None:
    token, key = people.begin_session(people.find("ann")), people.add_key("ann", "laptop")
    kept = everything_in(store)
    assert "laptop" in kept and "argon2id" in kept
    for secret in (PASSWORD, token, key, key.removeprefix("lmapps-")):
        assert secret not in kept


def test_a_session_lasts_until_it_ends_or_is_not_used(
    store: Store, people: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(users, "time", clock)
    ann, other = (people.begin_session(people.find("ann")) for _ in range(2))
    bob = people.begin_session(people.find("bob"))
    again = Users(Store(str(store.database.url.render_as_string(False))).database)
    assert again.of_session(ann) == people.find("ann"), "it survives a new start"
    people.end_session(ann)
    assert people.of_session(ann) is None and people.of_session(other)
    for _ in range(4):
        clock.now += SESSION_SECONDS - 1
        assert people.of_session(other), "used, it goes on"
    assert people.of_session(bob) is None, "not used, it does not"
    people.begin_session(people.find("ann"))
    with store.database.reading() as connection:
        assert len(connection.execute(sql.select(SESSIONS)).all()) == 2, "old ones are forgotten"
    people.set_password("ann", "another one")
    assert people.of_session(other) is None
    for nonsense in ("", "x", other + "=", "é", "\ud800"):
        assert people.of_session(nonsense) is None


def test_a_key_is_named_says_when_it_was_used_and_can_be_revoked(
    people: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(users, "time", clock)
    key, other = people.add_key("ann", "laptop"), people.add_key("ann", "cluster")
    assert key.startswith("lmapps-") and len(key) > 45 and key != other
    found = people.of_key(key)
    assert found and (found.name, found.role) == ("ann", "admin") and found.key
    clock.now += SEEN_SECONDS + 1
    assert people.of_key(key) and [made.used for made in people.keys("ann")] == [1e9 + 301, None]
    with pytest.raises(InputError, match="has a key 'laptop' already"):
        people.add_key("ann", "laptop")
    people.add_key("bob", "laptop")
    people.revoke("ann", "laptop")
    assert people.of_key(key) is None and people.of_key(other)
    assert [made.name for made in people.keys("bob")] == ["laptop"]
    with pytest.raises(InputError, match="bob has no key 'cluster'"):
        people.revoke("bob", "cluster")


def test_who_is_removed_takes_all_that_is_theirs_and_nothing_else(
    store: Store, people: Users
) -> None:
    for name in ("ann", "bob"):
        account = people.find(name)
        made = store.begin(account.owner, "chat", f"of {name}")
        store.add(account.owner, made, None, "user", f"said by {name}", "person")
        people.begin_session(account)
        people.add_key(name, f"key of {name}")
    assert people.remove("bob") == 1
    kept = everything_in(store)
    assert "bob" not in kept and kept.count("of ann") == 2 and "said by ann" in kept
    with store.database.reading() as connection:
        for table in (USERS, SESSIONS, KEYS):
            assert len(connection.execute(sql.select(table)).all()) == 1, table
    with pytest.raises(LmappsError, match="no user 'bob'"):
        people.remove("bob")


def test_the_only_admin_is_not_removed_while_there_are_others(people: Users) -> None:
    with pytest.raises(InputError, match="ann is the only admin: make somebody else one first"):
        people.remove("ann")
    people.set_role("bob", "admin")
    people.remove("ann")
    people.remove("bob")
    assert not people.exist, "the last one of all may go"


def test_what_a_browser_made_before_is_its_persons_from_the_login_on(
    store: Store, people: Users
) -> None:
    ann, browser, other = people.find("ann").owner, "a" * 32, "b" * 32
    mine, theirs = store.begin(browser, "chat", "Mine"), store.begin(other, "chat", "Theirs")
    store.adopt(browser, ann)
    store.adopt(browser, ann)
    assert store.load(ann, mine).title == "Mine"
    for owner, conversation in ((browser, mine), (ann, theirs)):
        with pytest.raises(NoSuchConversation):
            store.load(owner, conversation)


def test_a_preset_whose_name_an_account_has_does_not_keep_the_others_from_it(
    store: Store, people: Users
) -> None:
    ann, browser, presets = people.find("ann").owner, "a" * 32, Presets(store.database)
    presets.save(ann, DECODING, "calm", {"top_k": 1})
    for name in ("calm", "wild"):
        presets.save(browser, DECODING, name, {"top_k": 9})
    store.adopt(browser, ann)
    assert presets.of(ann, DECODING) == {"calm": {"top_k": 1}, "wild": {"top_k": 9}}
    assert list(presets.of(browser, DECODING)) == ["calm"], "neither is lost"


def test_nobody_keeps_anything(store: Store) -> None:
    for keep in (
        lambda: store.begin("", "chat"),
        lambda: Runs(store.database).begin("", "news", {"headline": "of a page left open"}),
        lambda: Presets(store.database).save("", DECODING, "mine", {}),
    ):
        with pytest.raises(InputError, match="load it again"):
            keep()
    assert Runs(store.database).last("", "news") == [] and not store.list("", "chat")


def test_five_wrong_passwords_are_let_through_and_then_none_for_a_quarter_of_an_hour() -> None:
    clock = Clock()
    attempts = Attempts(clock.time)
    here, elsewhere = limits_of("ann", "1.2.3.4"), limits_of("ann", "5.6.7.8")
    for _ in range(5):
        assert attempts.begin(here) == 0
        clock.now += 10
    assert attempts.begin(here) == SPAN_SECONDS - 50
    assert attempts.begin(limits_of("bob", "1.2.3.4")) == 0, "another name"
    assert attempts.begin(elsewhere) == 0, "the owner, at another address, is not locked out"
    attempts.succeeded(elsewhere)
    clock.now += SPAN_SECONDS - 50
    assert attempts.begin(here) == 0 and attempts.begin(here) > 0


def test_one_address_does_not_try_one_password_for_everybody() -> None:
    attempts = Attempts(Clock().time)
    tried = [attempts.begin(limits_of(f"user{number}", "1.2.3.4")) for number in range(80)]
    assert tried.count(0) == 50
    spread = [attempts.begin(limits_of("ann", f"10.0.0.{number}")) for number in range(220)]
    assert spread.count(0) == 200, "nor do many addresses try one name for ever"


def test_who_knows_the_password_is_not_counted() -> None:
    attempts, limits = Attempts(Clock().time), limits_of("ann", "1.2.3.4")
    for _ in range(500):
        assert attempts.begin(limits) == 0
        attempts.succeeded(limits)


OWNERS = ("user:a", "user:b", "c" * 32)


class Calls:
    """What one owner tries with a conversation and a turn, theirs or not."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.made: list[tuple[str, str]] = []
        """Every conversation: whose it is, and its id."""
        self.turns: list[tuple[str, str]] = []

    def begin(self, owner: str, conversation: str, turn: str, text: str) -> None:
        self.made.append((owner, self.store.begin(owner, "chat", text)))

    def add(self, owner: str, conversation: str, turn: str, text: str) -> None:
        said = self.store.add(owner, conversation, None, "user", text, "person")
        self.turns.append((owner, said.id))

    def answer(self, owner: str, conversation: str, turn: str, text: str) -> None:
        said = self.store.add(owner, conversation, turn, "assistant", text, "model")
        self.turns.append((owner, said.id))

    def load(self, owner: str, conversation: str, turn: str, text: str) -> None:
        self.store.load(owner, conversation)

    def rename(self, owner: str, conversation: str, turn: str, text: str) -> None:
        self.store.rename(owner, conversation, text)

    def delete(self, owner: str, conversation: str, turn: str, text: str) -> None:
        self.store.delete(owner, conversation)

    def restore(self, owner: str, conversation: str, turn: str, text: str) -> None:
        self.store.restore(owner, conversation)

    def show(self, owner: str, conversation: str, turn: str, text: str) -> None:
        self.store.show(owner, conversation, turn)

    def rate(self, owner: str, conversation: str, turn: str, text: str) -> None:
        self.store.rate(owner, conversation, turn, 1)

    def copy(self, owner: str, conversation: str, turn: str, text: str) -> None:
        whole = self.store.load(owner, conversation)
        if whole.turns:
            self.made.append((owner, self.store.take_in(owner, "chat", whole)))


NAMES = [name for name in vars(Calls) if not name.startswith("_")]
ONE_CALL = st.tuples(
    st.sampled_from(NAMES), st.sampled_from(OWNERS), st.integers(0, 9), st.integers(0, 9)
)


@settings(deadline=None, max_examples=25)
@given(sequence=st.lists(ONE_CALL, max_size=40))
def test_no_sequence_of_calls_shows_one_owners_rows_to_another(
    sequence: list[tuple[str, str, int, int]],
) -> None:
    store = Store("sqlite:///:memory:")
    calls = Calls(store)
    for number, (name, owner, one, other) in enumerate(sequence):
        whose, conversation = calls.made[one % len(calls.made)] if calls.made else ("", "none")
        whose_turn, turn = calls.turns[other % len(calls.turns)] if calls.turns else ("", "none")
        try:
            getattr(calls, name)(owner, conversation, turn, f"{owner} wrote {number}")
        except NoSuchConversation:
            continue
        assert name == "begin" or whose == owner, f"{owner} reached a conversation of {whose}"
        if name in ("answer", "show", "rate"):
            assert whose_turn == owner, f"{owner} reached a turn of {whose_turn}"
    for owner in OWNERS:
        for item in store.list(owner, "chat"):
            whole = store.load(owner, item.id)
            told = [whole.title, *(turn.content for turn in whole.turns)]
            assert all(text.startswith(owner) for text in told), told
