"""The OpenAPI description against the server: whatever fits it, and what does not, is no 5xx."""

from __future__ import annotations

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
    assert set(OPERATIONS) <= described
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
    statuses = run(schema, served, name, 12)
    if "{name}" not in name and "/apps/" not in name:  # forms have tests of their own
        assert 200 in statuses, "what fits the description is answered"


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("POST")])
def test_many_requests_get_no_5xx(schema: Any, served: Any, name: str) -> None:
    run(schema, served, name, 400)
