"""The OpenAPI description against the server: whatever fits it, and what does not, is no 5xx."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

OPERATIONS = [
    "POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models", "GET /v1/models/{name}",
    "GET /health", "GET /ready", "GET /metrics", "GET /apps", "POST /apps/news",
    "POST /apps/chat", "POST /apps/summarize", "POST /apps/code",
]  # fmt: skip


@pytest.fixture(scope="module")
def schema(served: Any) -> Any:
    served.seconds_per_step = 0
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


def test_every_operation_is_described(served: Any) -> None:
    paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    described = {
        f"{method.upper()} {path}" for path, methods in paths.items() for method in methods
    }
    assert set(OPERATIONS) == described
    for path, methods in paths.items():
        for method, operation in methods.items():
            if method == "post":
                body = operation["requestBody"]["content"]["application/json"]["schema"]
                assert body["properties"], f"{path} has a body without fields"


def run(schema: Any, served: Any, name: str, examples: int) -> set[int]:
    """The statuses that were seen."""
    statuses = set[int]()
    method, path = name.split()
    operation = schema[path][method]
    good, bad = (
        operation.as_strategy(generation_mode=mode)
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    )
    strategy = good if method == "GET" and "{" not in path else st.one_of(good, bad)

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def check(case: Any) -> None:
        if isinstance(case.body, dict):
            _shorten(case.body, path)
        response = case.call(timeout=60)
        assert response.status_code < 500, response.text
        statuses.add(response.status_code)
        if response.status_code >= 400 and "error" in response.text:
            assert response.json()["error"]["message"]

    check()
    served.wait_until_idle()
    return statuses


def _shorten(body: dict[str, Any], path: str) -> None:
    """Long replies tell nothing new: ask for few tokens, unless the number is what is wrong."""
    is_app = path.startswith("/apps")
    settings = body.setdefault("decoding", {}) if is_app else body
    name = "max_new_tokens" if is_app else "max_tokens"
    if isinstance(settings, dict):
        is_number = type(settings.setdefault(name, 3)) is int
        settings[name] = min(settings[name], 3) if is_number else settings[name]
        settings.pop("max_completion_tokens", None)


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_request_gets_a_5xx(schema: Any, served: Any, name: str) -> None:
    statuses = run(schema, served, name, 200)
    if "{name}" not in name and "/apps/" not in name:  # forms have tests of their own
        assert 200 in statuses, "what fits the description is answered"


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("POST")])
def test_many_requests_get_no_5xx(schema: Any, served: Any, name: str) -> None:
    run(schema, served, name, 400)


def form(*names: str) -> dict[str, Any]:
    properties = {name: {"type": "string"} for name in names}
    body = {"application/x-www-form-urlencoded": {"schema": {"properties": properties}}}
    return {"post": {"requestBody": {"content": body}, "responses": {}}}


LOOK: dict[str, Any] = {"get": {"responses": {}}}
ACCOUNTS: dict[str, Any] = {
    "openapi": "3.0.3", "info": {"title": "accounts", "version": "1"},
    "paths": {
        "/account": LOOK, "/account/usage": LOOK, "/account/keys": form("name"),
        "/account/keys/revoke": form("name"), "/account/password": form("password", "new"),
        "/login": LOOK | form("name", "password"), "/plugins/version": LOOK,
        "/runs/version": LOOK, "/runs/{name}/report.html": {"get": {
            "parameters": [{"in": "path", "name": "name", "required": True,
                            "schema": {"type": "string"}}], "responses": {},
        }},
        "/logout": form(),
    },
}  # fmt: skip
"""The addresses of accounts and of the page, which the server does not describe: it is no API."""
LEFT_OUT = {"GET /openapi.json", "HEAD /openapi.json"}
"""What says which addresses there are."""


@pytest.fixture(scope="module")
def people(serve: Any) -> Any:
    """A server with accounts; its headers hold the cookie of an admin's session."""
    from lmapps.discovery import Found
    from lmapps.server.accounts.users import Users

    tokens = list[str]()

    def prepare(store: Any) -> None:
        users = Users(store.database)
        tokens.append(users.begin_session(users.add("ann", "a long password")))

    with serve(Found(), 0.0, prepare=prepare) as running:
        running.headers = {"cookie": f"lmapps_session={tokens[0]}"}
        yield running


def test_every_address_of_ours_is_tried(
    people: Any, addresses_of: Callable[[Any], set[str]]
) -> None:
    tried = {re.sub(r"/apps/\w+", "/apps/{name}", name) for name in OPERATIONS}
    tried |= {f"{m.upper()} {path}" for path, ways in ACCOUNTS["paths"].items() for m in ways}
    there = {address.replace(":path", "") for address in addresses_of(people.app)}
    assert there == tried | LEFT_OUT


@pytest.mark.parametrize(
    "name", [f"{m.upper()} {path}" for path, ways in ACCOUNTS["paths"].items() for m in ways]
)
@pytest.mark.parametrize("examples", [12, pytest.param(150, marks=pytest.mark.long)])
def test_no_form_of_an_account_gets_a_5xx(people: Any, name: str, examples: int) -> None:
    method, path = name.split()
    operation = schemathesis.openapi.from_dict(ACCOUNTS)[path][method]
    modes = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
    has_input = (method == "POST" and path != "/logout") or "{" in path
    strategies = [operation.as_strategy(generation_mode=mode) for mode in modes[: 1 + has_input]]

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.one_of(*strategies))
    def check(case: Any) -> None:
        answer = case.call(
            base_url=people.url, headers=people.headers, timeout=60, allow_redirects=False
        )
        assert answer.status_code < 500, answer.text

    check()
