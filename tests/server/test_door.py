"""Whoever has no session and no key is sent away, and nobody uses what is another's."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from lmapps.errors import DatabaseFailed, LmappsError
from lmapps.server.accounts import door, secrets
from lmapps.server.accounts.door import COOKIE, Door
from lmapps.server.accounts.pages import account_routes
from lmapps.server.accounts.quotas import Limits, Payer, Quotas
from lmapps.server.accounts.rendered import on_failed_database
from lmapps.server.accounts.users import Users
from lmapps.server.api.protocol import on_error
from lmapps.server.store.database import Database
from lmapps.server.who import who

PASSWORD = "correct horse"


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    from argon2 import PasswordHasher

    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(secrets, "_hasher", lambda: quick)
    secrets._nobodys.cache_clear()


class Served:
    """A server behind a door: every address it has no answer for says who asks."""

    def __init__(self, database: Database, **limits: int) -> None:
        self.users, self.quotas = Users(database), Quotas(database, Limits(**limits))
        self.users.add("ann", PASSWORD)
        self.users.add("bob", PASSWORD)
        app = FastAPI()
        app.add_exception_handler(LmappsError, on_error)
        app.add_exception_handler(DatabaseFailed, on_failed_database)
        app.include_router(account_routes(self.users, self.quotas))

        @app.api_route("/{path:path}", methods=["GET", "POST"])
        async def answer(request: Request) -> dict[str, Any]:
            asks = who(request, visitor="f" * 32, named="somebody else")
            body = (await request.body()).decode()
            return {
                "owner": asks.owner,
                "turns": asks.turns,
                "is_admin": asks.is_admin,
                "body": body,
            }

        self.app = Door(app, self.users, self.quotas, admins=False)

    def client(self, **headers: str) -> TestClient:
        return TestClient(self.app, headers=headers, follow_redirects=False)

    def logged_in(self, name: str) -> TestClient:
        """A browser of its own."""
        client = self.client(accept="text/html")
        answer = client.post("/login", data={"name": name, "password": PASSWORD})
        assert answer.status_code == 303, answer.text
        return client


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(Database(f"sqlite:///{tmp_path / 'test.db'}"))
    yield made
    made.quotas.close()


PATHS = [
    "/", "/v1/models", "/v1/chat/completions", "/apps", "/apps/chat", "/metrics", "/openapi.json",
    "/config", "/gradio_api/info", "/gradio_api/queue/join",
    "/gradio_api/queue/data?session_hash=x",
    "/gradio_api/call/send", "/gradio_api/file=/etc/passwd", "/gradio_api/upload", "/account",
    "/gradio_api/heartbeat/x", "/plugins/version/", "/account/usage", "/account/keys", "/logout",
    "/login/", "//login", "/health/", "/LOGIN", "/assets/index.js", "/runs/version",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_session_or_key_every_address_sends_away(
    served: Served, method: str, path: str
) -> None:
    for headers in (
        {}, {"authorization": "Bearer lmapps-wrong"}, {"cookie": f"{COOKIE}=wrong"},
        {"authorization": "Basic YW5uOmNvcnJlY3QgaG9yc2U="},
    ):  # fmt: skip
        answer = served.client(**headers).request(method, path)
        assert answer.status_code == 401, answer.text
        assert answer.json()["error"]["code"] == "NotLoggedIn"
        assert answer.headers["www-authenticate"] == "Bearer"
    if method == "GET":
        answer = served.client(accept="text/html").get(path)
        assert answer.status_code == 303 and answer.headers["location"] == "/login"


@pytest.mark.parametrize("path", ["/health", "/ready", "/login"])
def test_a_few_addresses_answer_everybody_and_take_nobody_for_an_admin(
    served: Served, path: str
) -> None:
    answer = served.client().get(path)
    assert answer.status_code == 200
    assert path == "/login" or answer.json()["is_admin"] is False


def test_what_every_open_page_asks_each_second_asks_nothing_of_the_database(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(token: str) -> None:
        pytest.fail("a look-up each second, for each page that is open")

    ann = served.logged_in("ann")
    monkeypatch.setattr(served.users, "of_session", refused)
    for path in ("/plugins/version", "/gradio_api/app_id"):
        assert ann.get(path).json()["is_admin"] is False


def test_a_session_and_a_key_say_who_it_is_whatever_the_request_says(served: Served) -> None:
    bob = served.users.find("bob")
    key = served.users.add_key("bob", "laptop")
    expected = {"owner": f"user:{bob.id}", "turns": f"user {bob.id}", "is_admin": False, "body": ""}
    assert served.logged_in("bob").get("/anything").json() == expected
    assert served.client(authorization=f"bearer  {key} ").get("/anything").json() == expected
    assert served.logged_in("ann").get("/anything").json()["is_admin"] is True
    assert served.logged_in("bob").get("/metrics").status_code == 403
    assert served.logged_in("ann").get("/metrics").status_code == 200


def test_roles_logouts_and_revoked_keys_count_from_the_next_request_on(served: Served) -> None:
    bob, key = served.logged_in("bob"), served.users.add_key("bob", "laptop")
    served.users.set_role("bob", "admin")
    assert bob.get("/anything").json()["is_admin"] is True
    token = bob.cookies[COOKIE]
    assert bob.post("/logout").headers["location"] == "/login"
    assert COOKIE not in bob.cookies
    assert served.client(cookie=f"{COOKIE}={token}").get("/anything").status_code == 401
    with_key = served.client(authorization=f"Bearer {key}")
    assert with_key.get("/anything").status_code == 200
    served.users.revoke("bob", "laptop")
    assert with_key.get("/anything").status_code == 401
    ann = served.logged_in("ann")
    served.users.remove("bob")
    assert ann.get("/anything").status_code == 200


def test_the_cookie_is_for_this_server_and_no_script(served: Served) -> None:
    answer = served.client().post("/login", data={"name": "ann", "password": PASSWORD})
    told = answer.headers["set-cookie"].lower()
    assert "httponly" in told and "samesite=lax" in told and "path=/;" in told
    assert "secure" not in told and answer.headers["cache-control"] == "no-store"
    over_tls = TestClient(served.app, base_url="https://lab.example", follow_redirects=False)
    answer = over_tls.post("/login", data={"name": "ann", "password": PASSWORD})
    assert "secure" in answer.headers["set-cookie"].lower()


def test_a_wrong_password_and_an_unknown_name_get_the_same_answer(served: Served) -> None:
    answers = [
        served.client().post("/login", data={"name": name, "password": "wrong"})
        for name in ("ann", "eve")
    ]
    assert [answer.status_code for answer in answers] == [401, 401]
    told = [answer.text.replace("eve", "ann") for answer in answers]
    assert told[0] == told[1] and "The name or the password is not right." in told[0]
    chinese = served.client(**{"accept-language": "zh-CN"})
    assert "用户名或密码不正确" in chinese.post("/login", data={"name": "x"}).text


def test_whoever_guesses_has_to_wait(served: Served) -> None:
    client = served.client()
    tried = [
        client.post("/login", data={"name": "ann", "password": f"guess {number}"}).status_code
        for number in range(7)
    ]
    assert tried == [401] * 5 + [429] * 2
    answer = client.post("/login", data={"name": "ann", "password": PASSWORD})
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 800
    assert "try again in 15 minutes" in answer.text and COOKIE not in client.cookies


def test_what_somebody_writes_into_a_form_is_text(served: Served) -> None:
    attack = '"><script>alert(1)</script>'
    answer = served.client().post("/login", data={"name": attack, "password": "x"})
    assert "<script>alert" not in answer.text and "&lt;script&gt;alert" in answer.text
    ann = served.logged_in("ann")
    answer = ann.post("/account/keys", data={"name": attack})
    assert "<script>alert" not in answer.text and "&lt;script&gt;alert" in answer.text
    assert served.client().post("/login", content=b"\xff" * 100).status_code == 400
    assert served.client().post("/login", content=b"x=" + b"y" * 20_000).status_code == 413


JOIN = "/gradio_api/queue/join"


def test_an_open_page_belongs_to_who_opened_it(served: Served) -> None:
    ann, bob = served.logged_in("ann"), served.logged_in("bob")
    body = {"session_hash": "of_ann", "data": []}
    answer = ann.post(JOIN, json=body)
    assert json.loads(answer.json()["body"]) == body, "the body comes through as it is"
    mine = {"session_hash": "of_bob"}
    attempts: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/gradio_api/queue/data?session_hash=of_ann", {}),
        ("GET", "/gradio_api/queue/data?session_hash=of_bob&session_hash=of_ann", {}),
        ("GET", "/gradio_api/queue/data?session%5Fhash=of%5Fann", {}),
        ("GET", "/gradio_api/heartbeat/of_ann", {}),
        ("GET", "/gradio_api/heartbeat/of%5Fann", {}),
        ("GET", "/gradio_api/stream/of_ann/1/2/playlist.m3u8", {}),
        ("GET", "/gradio_api/deep_link?session_hash=of_ann", {}),
        ("POST", JOIN, {"json": body}),
        ("POST", JOIN, {"content": b'{"session_hash": "of_bob", "session_hash": "of_ann"}'}),
        ("POST", JOIN, {"content": b'{"session_hash": "of_ann", "session_hash": "of_bob"}'}),
        ("POST", JOIN, {"content": json.dumps(body).encode("utf-16")}),
        ("POST", JOIN, {"content": b'{"session\\u005fhash": "of_ann"}'}),
        ("POST", JOIN, {"json": body, "headers": {"content-type": "text/plain"}}),
        ("POST", "/gradio_api/cancel", {"json": {**body, "event_id": "x", "fn_index": 1}}),
        ("POST", "/gradio_api/reset", {"json": body}),
        ("POST", "/gradio_api/component_server", {"json": body}),
        ("POST", "/gradio_api/call/send", {"json": body}),
    ]
    assert bob.post(JOIN, json=mine).status_code == 200
    for method, path, sent in attempts:
        answer = bob.request(method, path, **sent)
        assert answer.status_code == 403, (path, sent, answer.text)
        assert "somebody else's" in answer.json()["error"]["message"]
    form = bob.post("/gradio_api/component_server", data={"session_hash": "of_ann"})
    assert form.status_code == 400, "what is no JSON could name a page unseen"
    for method, path, sent in attempts[:1] + attempts[3:4] + attempts[7:8]:
        assert ann.request(method, path, **sent).status_code == 200


def test_who_comes_while_the_database_is_gone_is_not_told_where_it_was(
    served: Served, tmp_path: Path
) -> None:
    file = tmp_path / "test.db"
    file.rename(tmp_path / "kept.db")
    with_key = served.client(authorization="Bearer lmapps-unknown")
    for _ in range(2):
        answer = with_key.get("/v1/models")
        assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
        told = answer.json()["error"]["message"]
        assert told == "the database does not work at the moment: try again in a few seconds"
    ann = served.client(accept="text/html,*/*", cookie=f"{COOKIE}=of-ann")
    form = {"name": "ann", "password": PASSWORD}
    for page, again in ((ann.get("/"), ""), (ann.post("/login", data=form), "; url=/")):
        assert page.status_code == 503 and page.headers["retry-after"] == "5"
        assert page.headers["content-type"].startswith("text/html")
        assert "The database does not work at the moment" in page.text
        assert f'<meta http-equiv="refresh" content="5{again}">' in page.text
    chinese = ann.get("/", headers={"accept-language": "zh-CN"}).text
    assert "数据库暂时无法使用" in chinese and "自动重试" in chinese
    assert str(tmp_path) in served.quotas._database.trouble, "/health has more for admins"
    (tmp_path / "kept.db").rename(file)
    assert with_key.get("/v1/models").status_code == 401


def test_an_answer_comes_though_nothing_can_be_said_of_quotas(served: Served) -> None:
    with_key = served.client(authorization=f"Bearer {served.users.add_key('bob', 'laptop')}")

    def gone(account: Any) -> None:
        raise DatabaseFailed("it is gone")

    served.quotas.usage = gone  # type: ignore[assignment, method-assign]
    assert with_key.get("/v1/models").json()["turns"].startswith("user ")


def test_a_large_body_is_looked_through_beside_everybodys_streams(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, look = list[str](), door._sessions_in

    def looked(body: bytes) -> list[str]:
        threads.append(threading.current_thread().name)
        return look(body)

    monkeypatch.setattr(door, "_sessions_in", looked)
    ann, bob = served.logged_in("ann"), served.logged_in("bob")
    body = {"session_hash": "of_ann", "data": ["x" * door.SMALL_BYTES]}
    assert json.loads(ann.post(JOIN, json=body).json()["body"]) == body
    assert bob.post(JOIN, json=body).status_code == 403
    assert threads == ["bodies_0", "bodies_0"]
    assert bob.post(JOIN, json={"session_hash": "of_bob"}).status_code == 200
    assert threads[2] != "bodies_0"


def test_a_websocket_is_closed(served: Served) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        served.client().websocket_connect("/gradio_api/queue/join"),
    ):
        pass


def test_an_account_changes_its_password_and_keys(served: Served) -> None:
    ann, elsewhere = served.logged_in("ann"), served.logged_in("ann")
    page = ann.post("/account/keys", data={"name": "laptop"})
    key = page.text.partition('<code id="key">')[2].partition("<")[0]
    assert served.client(authorization=f"Bearer {key}").get("/anything").status_code == 200
    assert key not in ann.get("/account").text and "laptop" in ann.get("/account").text
    assert ann.post("/account/keys/revoke", data={"name": "laptop"}).status_code == 303
    assert served.client(authorization=f"Bearer {key}").get("/anything").status_code == 401
    wrong = ann.post("/account/password", data={"password": "wrong", "new": "another one"})
    assert wrong.status_code == 403 and "The password is not right." in wrong.text
    short = ann.post("/account/password", data={"password": PASSWORD, "new": "short"})
    assert short.status_code == 400 and "between 8 and 256" in short.text
    changed = ann.post("/account/password", data={"password": PASSWORD, "new": "another one"})
    assert changed.status_code == 303 and ann.get("/account").status_code == 200
    assert elsewhere.get("/account").headers["location"] == "/login", "logged out elsewhere"
    assert served.users.known("ann", "another one")


def test_the_account_page_shows_what_each_key_has_had_of_its_own_limit(served: Served) -> None:
    keys = {name: served.users.add_key("ann", name) for name in ("laptop", "phone")}
    served.users.add_key("bob", "laptop")
    served.users.set_key_limits("ann", "laptop", requests_a_minute=9, tokens_a_day=1234)
    for tokens, key in zip((34, 5000), keys.values(), strict=True):
        payer = Payer(served.users.of_key(key))  # type: ignore[arg-type]
        served.quotas.admit(payer)
        served.quotas.count(payer, tokens)
    page = served.logged_in("ann").get("/account").text
    rows = [row for row in re.findall("<tr>.*?</tr>", page, re.S) if "keys/revoke" in row]
    told = [" ".join(re.sub("<[^>]*>", " ", row).split()[5:]) for row in rows]
    assert told == ["1 / 9 34 / 1,234 Revoke", "1 5,000 Revoke"]
    assert '<meter max="1234" value="34">' in rows[0] and "meter" not in rows[1]


def test_a_key_changes_nothing_of_its_account_so_that_it_cannot_outgrow_its_limits(
    served: Served,
) -> None:
    with_key = served.client(authorization=f"Bearer {served.users.add_key('bob', 'laptop')}")
    for path, form in (
        ("keys", {"name": "another"}),
        ("keys/revoke", {"name": "laptop"}),
        ("password", {"password": PASSWORD, "new": "another one"}),
    ):
        answer = with_key.post(f"/account/{path}", data=form)
        assert answer.status_code == 403 and "log in on the page" in answer.text
    assert [key.name for key in served.users.keys("bob")] == ["laptop"]
    assert served.users.known("bob", PASSWORD)
    assert with_key.get("/account/usage").json()["name"] == "bob"


def test_a_name_written_in_another_way_is_no_other_name_to_guess_for(served: Served) -> None:
    client = served.client()
    names = ("ann", "ANN", "ａnn", "aｎn", " ann ", "anｎ", "ⓐnn")
    tried = [client.post("/login", data={"name": name}).status_code for name in names]
    assert tried == [401] * 5 + [429] * 2


def test_without_accounts_everybody_comes_in_and_is_who_they_say(tmp_path: Path) -> None:
    app = FastAPI()

    @app.get("/{path:path}")
    def answer(request: Request) -> list[Any]:
        asks = who(request, visitor="f" * 32)
        named = who(request, visitor="user:ann", named="ann")
        assert named.owner != "user:ann" and len(named.owner) == 32
        return [asks.owner, asks.turns, asks.is_admin, named.turns]

    for admins in (True, False):
        client = TestClient(Door(app, None, None, admins))
        assert client.get("/x").json() == ["f" * 32, "testclient", admins, "testclient\nuser ann"]
        through_proxy = client.get("/x", headers={"x-forwarded-for": "1.2.3.4"})
        assert through_proxy.json()[2] is False, "the proxy's machine is not who asks"
    program = who(None)
    assert program.turns is None and program.is_admin
