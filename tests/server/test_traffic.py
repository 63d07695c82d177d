"""Requests as Prometheus sees them: by template, method and status, and how long they took."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lmapps.server.gate.traffic import TEMPLATES, Traffic, template_of

ASK = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/", "/"), ("/v1/models", "/v1/models"), ("/v1/models/a/b", "/v1/models/{name}"),
        ("/apps/news", "/apps/{name}"),
        ("/gradio_api/heartbeat/abc", "/gradio_api/heartbeat/{name}"),
        ("/gradio_api/file=/tmp/x/secret.txt", "/gradio_api/file={name}"),
        ("/gradio_api/queue/join", "/gradio_api/queue/join"), ("/assets/index-1234.js", "assets"),
        ("/v1/nonsense", "api"), ("/wp-login.php", "page"), ("/apps/", "apps"),
    ],
)  # fmt: skip
def test_addresses_are_told_by_few_templates(path: str, template: str) -> None:
    assert template_of(path) == template


def samples(text: str) -> dict[tuple[str, ...], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            found[one.name, *one.labels.values()] = one.value
    return found


def test_every_address_of_the_api_has_its_template(served: Any) -> None:
    paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    for path in paths:
        general = re.sub(r"^/apps/\w+$", "/apps/{name}", path.replace(":path", ""))
        assert template_of(path.replace("{", "").replace("}", "")) == general
        assert general in TEMPLATES


def test_requests_are_counted_and_timed(served: Any) -> None:
    def told() -> dict[tuple[str, ...], float]:
        return samples(httpx.get(f"{served.url}/metrics").text)

    before = told()
    assert httpx.post(f"{served.url}/v1/chat/completions", json=ASK).status_code == 200
    assert httpx.post(f"{served.url}/v1/chat/completions", json={}).status_code == 400
    assert httpx.get(f"{served.url}/nothing/there").status_code == 404
    assert httpx.request("BREW", f"{served.url}/health").status_code == 404
    now = told()
    while now["lmapps_http_open_requests",] > 1:  # counted once the answer has left
        now = told()

    def more(*key: str) -> float:
        return now[key] - before.get(key, 0)

    chat = ("POST", "/v1/chat/completions")
    assert more("lmapps_http_requests_total", *chat, "200") == 1
    assert more("lmapps_http_requests_total", *chat, "400") == 1
    assert more("lmapps_http_requests_total", "GET", "page", "404") == 1
    assert more("lmapps_http_requests_total", "other", "/health", "404") == 1
    assert more("lmapps_http_answer_seconds_count", *chat) == 2
    assert now[("lmapps_http_open_requests",)] == 1, "this one"
    assert now[("lmapps_process_resident_memory_bytes",)] > 0


def test_a_request_nobody_waits_for_is_no_longer_open() -> None:
    from lmapps.server.gate.gate import Gate
    from lmapps.server.gate.hosts import Hosts

    traffic, began = Traffic(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    async def leave() -> None:
        scope = {"type": "http", "method": "GET", "path": "/health", "headers": []}
        visit = asyncio.create_task(Gate(slow, Hosts(), "", traffic)(scope, None, None))  # type: ignore[arg-type]
        await began.wait()
        assert traffic.registry.get_sample_value("lmapps_http_open_requests") == 1
        visit.cancel()
        await asyncio.wait([visit])

    asyncio.run(leave())
    value = traffic.registry.get_sample_value
    assert value("lmapps_http_open_requests") == 0
    left = {"method": "GET", "route": "/health", "status": "0"}
    assert value("lmapps_http_requests_total", left) == 1
