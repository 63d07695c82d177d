"""A real server with accounts: the API with OpenAI's client, and Gradio's addresses by hand."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from lmapps.discovery import discover
from lmapps.errors import SettingsError
from lmapps.paths import checkpoint_folders, home, plugin_folders
from lmapps.server.accounts.access import access_of
from lmapps.server.accounts.users import Users
from lmapps.server.settings import ServeSettings
from lmapps.server.store.database import Database
from lmapps.server.store.store import new_turn
from tests.server.conftest import new_database

PASSWORD = "correct horse"
ADMINS_TABS = {"lmapps-models", "lmapps-training", "lmapps-plugins"}
ASK: list[Any] = [{"role": "user", "content": "Where is the cat?"}]


class People:
    """Ann, an admin, and Bob, on a server, with a key each."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.url = ""

    def prepare(self, store: Any) -> None:
        self.store = store
        self.users = Users(store.database)
        for name in ("ann", "bob"):
            self.users.add(name, PASSWORD)
            self.keys[name] = self.users.add_key(name, "laptop")

    def client(self, name: str) -> openai.OpenAI:
        key = self.keys.get(name, "none")
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def logged_in(self, name: str) -> httpx.Client:
        client = httpx.Client(base_url=self.url, timeout=20)
        answer = client.post("/login", data={"name": name, "password": PASSWORD})
        assert answer.status_code == 303
        return client


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def people(serve: Callable[..., Any], request: pytest.FixtureRequest) -> Iterator[People]:
    made, settings = People(), {"requests_a_minute": 1000}
    on_postgres = request.param == "postgresql"
    database = new_database(request.getfixturevalue("postgres")) if on_postgres else ""
    with serve(discover(), 0.0, database, prepare=made.prepare, **settings) as running:
        made.url = running.url
        yield made


def test_a_network_is_served_only_with_accounts_or_when_it_is_meant(database_url: str) -> None:
    database = Database(database_url)
    for host in ("127.0.0.1", "::1", "localhost"):
        assert access_of(ServeSettings(host=host), database).admins
    for host in ("0.0.0.0", "::", "192.168.1.2", "lab.example"):
        with pytest.raises(SettingsError, match=r"make an account first.*or say --public"):
            access_of(ServeSettings(host=host), database)
        public = access_of(ServeSettings(host=host, public=True), database)
        assert public.users is None and not public.admins, "strangers are no admins"
    proxied = ServeSettings(hosts=("lm.example.org",))
    with pytest.raises(SettingsError, match=r"--hosts lm.example.org everybody whom a proxy .*"):
        access_of(proxied, database)
    with pytest.raises(SettingsError, match="a proxy"):
        access_of(ServeSettings(), database).check_open(proxied)
    access_of(replace(proxied, public=True), database).check_open(proxied)
    assert not access_of(ServeSettings(public=True), database).admins, "behind a proxy"
    Users(database).add("ann", PASSWORD)
    for settings in (ServeSettings(), ServeSettings(host="0.0.0.0"), ServeSettings(public=True)):
        access = access_of(settings, database)
        assert access.users and not access.admins
        access.close()
    database.close()


def test_strangers_are_told_how_the_server_is_and_no_more(people: People) -> None:
    assert httpx.get(f"{people.url}/health").json().keys() == {"status"}
    assert httpx.get(f"{people.url}/ready").json() == {"ready": True, "reason": None}
    bob = httpx.get(
        f"{people.url}/health", headers={"authorization": f"Bearer {people.keys['bob']}"}
    ).json()
    assert bob["models"][0]["name"] == "unnamed" and bob["parts"]
    assert {part["reason"] for part in bob["parts"]} == {""}, "which are an admin's"


def test_the_api_answers_whoever_has_a_key(people: People) -> None:
    with pytest.raises(openai.AuthenticationError, match="this API key is not known"):
        people.client("eve").models.list()
    assert httpx.get(f"{people.url}/v1/models").status_code == 401
    assert httpx.get(f"{people.url}/health").status_code == 200
    answer = people.client("bob").chat.completions.with_raw_response.create(
        model="unnamed", messages=ASK, max_tokens=5, user="ann"
    )
    assert int(answer.headers["x-ratelimit-remaining-requests"]) < 1000
    usage = httpx.get(
        f"{people.url}/account/usage", headers={"authorization": f"Bearer {people.keys['bob']}"}
    ).json()
    assert usage["name"] == "bob" and usage["key"]["tokens"] >= 5
    assert usage["user"]["tokens"] >= usage["key"]["tokens"]


def test_over_the_limit_it_is_429_with_the_time_to_wait_streamed_or_not(people: People) -> None:
    people.users.set_limits("bob", tokens_a_day=20)
    bob = people.client("bob")
    options: dict[str, Any] = {"model": "unnamed", "messages": ASK, "max_tokens": 20}
    for chunk in bob.chat.completions.create(stream=True, **options):
        assert chunk.choices is not None
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError, match="tokens today, of 20") as told:
            bob.chat.completions.create(stream=stream, **options)
        assert 0 < int(told.value.response.headers["retry-after"]) <= 86_400
        assert told.value.response.headers["x-ratelimit-remaining-tokens"] == "0"
    form = httpx.post(
        f"{people.url}/apps/summarize", json={"text": "The cat sat."},
        headers={"authorization": f"Bearer {people.keys['bob']}"},
    )  # fmt: skip
    assert form.status_code == 429
    assert people.client("ann").chat.completions.create(**options)
    people.users.set_limits("bob", tokens_a_day=None)


def config_of(client: httpx.Client) -> dict[str, Any]:
    return dict(client.get("/config").json())


def labels(config: dict[str, Any]) -> list[str]:
    return [str(part["props"].get("label")) for part in config["components"]]


def test_an_admins_tabs_and_events_are_not_there_for_others(people: People) -> None:
    ann, bob = people.logged_in("ann"), people.logged_in("bob")
    of_ann, of_bob = config_of(ann), config_of(bob)
    ids = [
        [part["props"].get("id") for part in config["components"]] for config in (of_ann, of_bob)
    ]
    assert set(ids[0]) >= ADMINS_TABS and not ADMINS_TABS & set(ids[1])
    assert len(of_bob["dependencies"]) < len(of_ann["dependencies"])
    ask = ["plugins/version?admins" in json.dumps(config) for config in (of_ann, of_bob)]
    assert ask == [True, False], "what needs looking after is told to those who can"
    pages = [person.get("/").text for person in (ann, bob)]
    for tab in ADMINS_TABS:
        assert tab in pages[0] and tab not in pages[1]
    for address in ("/runs/version", "/metrics"):
        assert [p.get(address).status_code for p in (ann, bob)] == [200, 403], address
    beyond = max(event["id"] for event in of_bob["dependencies"]) + 1
    asked = {"session_hash": "beyond", "fn_index": beyond, "data": []}
    assert bob.post("/gradio_api/queue/join", json=asked).status_code == 400


def answer_of(
    client: httpx.Client, event: dict[str, Any], data: list[Any], event_data: Any = None
) -> str:
    """What an event of the page answers, asked for by hand from a page of its own; all of it, where
    it comes in pieces."""
    page, told = uuid.uuid4().hex, list[str]()
    asked = {"session_hash": page, "fn_index": event["id"], "data": data, "event_data": event_data}
    assert client.post("/gradio_api/queue/join", json=asked).status_code == 200
    with client.stream("GET", f"/gradio_api/queue/data?session_hash={page}") as stream:
        for line in stream.iter_lines():
            told.append(line)
            if '"process_completed"' in line:
                return "\n".join(told)
    raise AssertionError(told)


def test_whose_a_page_is_the_account_says_and_not_the_page(people: People) -> None:
    """A server that was started again knows no page that is open, and a page may say anything."""
    ann, bob = people.logged_in("ann"), people.logged_in("bob")
    config = config_of(bob)
    parts = {part["id"]: part["props"] for part in config["components"]}
    (runs,) = (id for id, props in parts.items() if props.get("elem_id") == "runs-summarize")
    write, *_ = events = [one for one in config["dependencies"] if runs in one["outputs"]]
    data = [parts[id].get("value") for id in write["inputs"]]
    data[2] = "Of Bob alone."
    (listed,) = (one for one in events if one["targets"][0][1] == "then")
    for name in (None, "0123456789abcdef" * 2, "user:1"):
        data[0] = name
        assert "Of Bob" in answer_of(bob, write, data)
        assert "Of Bob" in answer_of(bob, listed, [None, None])
        assert "Of Bob" not in answer_of(ann, listed, [name, None])


SECRET = "Treasure"


class Talked:
    """A conversation of Ann's, in which a reply has two versions."""

    def __init__(self, people: People) -> None:
        self.store, self.owner = people.store, people.users.find("ann").owner
        asked = new_turn(None, "user", f"{SECRET}?", "person")
        self.id = self.store.start(self.owner, "chat", asked)
        for text in ("mat", "tree"):
            self.last = self.store.add(
                self.owner, self.id, asked.id, "assistant", f"{SECRET} under the {text}", "model"
            )

    def place(self, conversation: str) -> str:
        """Where a page stands that shows it, or says so of another conversation."""
        return json.dumps({"conversation": conversation, "leaf": self.last.id, "shown": 60})

    def kept(self) -> tuple[Any, ...]:
        """All of it, and whether, when and as what it is listed."""
        listed = self.store.list(self.owner, "chat")
        whole = self.store.load(self.owner, self.id)
        return whole, [one for one in listed if one.id == self.id]


class ChatByHand:
    """The events of the chat's tab, as somebody asks for them who writes the requests."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.parts = {part["id"]: part for part in config["components"]}
        named = {one["api_name"]: one for one in config["dependencies"] if one["backend_fn"]}
        self.here = named["_on_send"]["inputs"][:2]  # whose it is, and where
        self.events = [one for one in named.values() if one["inputs"][:2] == self.here]

    def ask(self, client: httpx.Client, event: dict[str, Any], place: str, other: str) -> str:
        """What an event answers that stands at a place; `other` is in every box that nobody sees,
        such as the conversation that was deleted last."""
        data = [self._value(id, other) for id in event["inputs"]]
        data[:3] = [None, "" if event["api_name"] == "_on_arrive" else place, True]
        told = {"index": 0, "value": "Stolen", "previous_value": "", "liked": True}
        return answer_of(client, event, data, told)

    def _value(self, id: int, other: str) -> Any:
        props = self.parts[id]["props"]
        if self.parts[id]["type"] != "textbox":
            return props.get("value")
        return other if props.get("visible") == "hidden" else "Stolen"


def test_no_event_of_the_chat_tells_or_changes_what_is_in_somebody_elses_conversation(
    people: People,
) -> None:
    ann, bob = people.logged_in("ann"), people.logged_in("bob")
    chat, works = ChatByHand(config_of(bob)), set[str]()
    said = new_turn(None, "user", "Of Bob", "person")
    own = people.store.start(people.users.find("bob").owner, "chat", said)
    assert len(chat.events) > 20
    for event in chat.events:
        of_ann = Talked(people)
        here, before = of_ann.place(of_ann.id), of_ann.kept()
        for place in (here, of_ann.place(own)):
            for other in (of_ann.id, here):
                told = chat.ask(bob, event, place, other)
                assert SECRET not in told, (event["api_name"], told)
        assert of_ann.kept() == before, event["api_name"]
        told = "".join(chat.ask(ann, event, here, other) for other in (of_ann.id, here))
        if SECRET in told or of_ann.kept() != before:
            works.add(event["api_name"])
    # Ann is told or changes something by all but three: a new chat, one of a list that her page was
    # not shown, and a file that was not sent.
    assert len(works) == len(chat.events) - 3, works


def test_through_a_proxy_nothing_of_models_and_runs_is_told(serve: Callable[..., Any]) -> None:
    places = {"model-view", "run-view", "feedback-told", "more", "start-from", "model-status"}
    places.add("plugins-page")
    with serve(discover(), 0.0) as running:
        client = httpx.Client(base_url=running.url, headers={"x-forwarded-for": "1.2.3.4"})
        config = config_of(client)
        parts = {part["id"]: part["props"] for part in config["components"]}
        told = {id for id, props in parts.items() if props.get("elem_id") in places}
        events = [one for one in config["dependencies"] if told & {*one["outputs"]}]
        assert len(events) > 15
        machine = [str(folder) for folder in (home(), *checkpoint_folders(), *plugin_folders())]
        assert not [place for place in machine if place in json.dumps(config)]
        for event in events:
            data = [parts[id].get("value") for id in event["inputs"]]
            assert "only an administrator" in answer_of(client, event, data).lower(), event


def test_gradios_addresses_know_no_page_of_somebody_else(people: People) -> None:
    ann, bob = people.logged_in("ann"), people.logged_in("bob")
    event = next(e for e in config_of(ann)["dependencies"] if not e["inputs"] and e["queue"])
    asked = {"session_hash": "page_of_ann", "fn_index": event["id"], "data": []}
    assert ann.post("/gradio_api/queue/join", json=asked).status_code == 200
    assert bob.post("/gradio_api/queue/join", json=asked).status_code == 403
    for path in ("queue/data?session_hash=page_of_ann", "heartbeat/page_of_ann"):
        assert bob.get(f"/gradio_api/{path}").status_code == 403, path
    with ann.stream("GET", "/gradio_api/queue/data?session_hash=page_of_ann") as stream:
        told = [json.loads(line[6:])["msg"] for line in stream.iter_lines() if line]
    assert "process_completed" in told, "Bob has taken nothing of it"
    stranger = httpx.Client(base_url=people.url)
    upload = ann.post("/gradio_api/upload", files={"files": ("mine.json", b"secret")})
    (path,) = upload.json()
    assert ann.get(f"/gradio_api/file={path}").content == b"secret"
    for method, address in (
        ("GET", f"/gradio_api/file={path}"), ("POST", "/gradio_api/upload"), ("GET", "/config"),
        ("GET", "/gradio_api/info"), ("POST", "/gradio_api/queue/join"), ("GET", "/"),
        ("POST", f"/gradio_api/call/{event['api_name']}"), ("GET", "/theme.css"),
    ):  # fmt: skip
        sent = {"json": {}} if method == "POST" else {}
        assert stranger.request(method, address, **sent).status_code in (401, 404), address
