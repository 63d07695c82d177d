"""Two page servers behind nginx, two engines, one PostgreSQL: any of them may be killed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmapps.server.accounts.users import Users
from lmapps.server.store.store import Store
from tests.deploy.conftest import LMAPPS, SLOW, Program, free_port
from tests.deploy.test_nginx import PASSWORD, Visitor

BROKE_OFF = "the reply broke off, ask again"
TOKENS = 60


@dataclass
class Cluster:
    url: str
    """Of nginx."""
    pages: list[Program]
    engines: list[Program]
    database: str
    key: str


@pytest.fixture(scope="module")
def database(postgres: str) -> str:
    import psycopg

    with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE several")
    return postgres.format("several")


@pytest.fixture(scope="module")
def cluster(
    programs: Callable[..., Program], nginx: Any, tiny_folder: Path, database: str
) -> Iterator[Cluster]:
    store = Store(database)
    for name in ("ann", "bob"):
        Users(store.database).add(name, PASSWORD)
    key = Users(store.database).add_key("ann", "test")
    store.close()
    engines = []
    for name in ("engine1", "engine2"):
        port = free_port()
        words = ["serve", "--port", str(port), "--checkpoint", f"tiny={tiny_folder}"]
        engines.append(programs(name, [sys.executable, "-c", SLOW, *words], port))
    for engine in engines:
        engine.wait("/ready")
    urls = ",".join(f"{engine.url}/v1" for engine in engines)
    pages = []
    for name in ("page1", "page2"):
        port = free_port()
        words = ["serve", "--port", str(port), "--checkpoint", f"tiny={urls}"]
        pages.append(programs(name, [*LMAPPS, *words, "--database", database], port))
    for page in pages:
        page.wait("/ready")
    ports = {f"{7860 + n}": str(page.port) for n, page in enumerate(pages)}
    proxy = nginx("nginx", "nginx-several.conf", ports)
    yield Cluster(proxy.url, pages, engines, database, key)


def metric(program: Program, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = httpx.get(f"{program.url}/metrics", timeout=20).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def asked(client: httpx.AsyncClient, number: int, streams: bool) -> str:
    """How one request ended: "whole", or what was told."""
    body = {
        "messages": [{"role": "user", "content": f"Hello {number}"}], "max_tokens": TOKENS,
        "stream": streams, "user": f"person {number}",
    }  # fmt: skip
    if not streams:
        answer = await client.post("/v1/chat/completions", json=body)
        told = answer.json()
        if answer.status_code == 200:
            assert told["usage"]["completion_tokens"] == TOKENS
            return "whole"
        return f"{answer.status_code} {told['error']['message']}"
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            return f"{answer.status_code} {(await answer.aread()).decode()}"
        *_, last, end = [line async for line in answer.aiter_lines() if line.startswith("data:")]
        assert end == "data: [DONE]", "a stream has an end, whatever happens"
        event = json.loads(last.removeprefix("data:"))
        if "error" in event:
            return str(event["error"]["message"])
        assert event["choices"][0]["finish_reason"] == "length"
        return "whole"


@pytest.mark.long
def test_an_engine_killed_under_load_costs_what_it_was_writing_and_is_used_again(
    cluster: Cluster,
) -> None:
    first, second = cluster.engines
    headers = {"Authorization": f"Bearer {cluster.key}"}

    async def load() -> tuple[Counter[str], list[str], float]:
        before, killed, after = Counter[str](), asyncio.Event(), list[str]()

        async def person(number: int, client: httpx.AsyncClient) -> None:
            while not killed.is_set():
                before[await asked(client, number, number % 2 == 0)] += 1
            for _ in range(2):
                after.append(await asked(client, number, number % 2 == 0))

        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=cluster.url, headers=headers, timeout=120, limits=limits
        ) as client:
            people = [asyncio.create_task(person(number, client)) for number in range(16)]
            while not (metric(first, "lmapps_running_requests") >= 3 and before["whole"] >= 16):
                await asyncio.sleep(0.05)
            begun = metric(second, "lmapps_accepted_requests_total")
            first.kill()
            killed.set()
            await asyncio.gather(*people)
        return before, after, begun

    before, after, begun = asyncio.run(load())
    broken = [told for told in before if told != "whole"]
    assert broken and all(BROKE_OFF in told and first.url in told for told in broken), before
    assert sum(before[told] for told in broken) <= 16, "only what was in its middle"
    assert after == ["whole"] * 32, "whoever asks afterwards notices nothing"
    assert metric(second, "lmapps_accepted_requests_total") - begun >= 32
    for page in cluster.pages:
        httpx.get(f"{page.url}/ready").raise_for_status()
    first.start()
    first.wait("/ready")

    async def again() -> None:
        deadline = time.monotonic() + 90
        async with httpx.AsyncClient(base_url=cluster.url, headers=headers, timeout=120) as client:
            while metric(first, "lmapps_accepted_requests_total") < 4:
                assert time.monotonic() < deadline, "an engine that is back is used again"
                told = [asked(client, number, number % 2 == 0) for number in range(8)]
                assert await asyncio.gather(*told) == ["whole"] * 8

    asyncio.run(again())


@pytest.mark.long
def test_a_session_and_a_key_are_known_to_every_page_server(cluster: Cluster) -> None:
    one, other = (httpx.Client(base_url=page.url, timeout=30) for page in cluster.pages)
    answer = one.post("/login", data={"name": "bob", "password": PASSWORD})
    assert answer.status_code == 303
    other.cookies.set("lmapps_session", one.cookies["lmapps_session"])
    assert other.get("/account/usage").json()["name"] == "bob"
    for page in cluster.pages:
        headers = {"Authorization": f"Bearer {cluster.key}"}
        assert httpx.get(f"{page.url}/v1/models", headers=headers).status_code == 200
    assert other.post("/logout").status_code == 303
    assert one.get("/account/usage").status_code == 401, "nobody remembers a session"


def server_of(visitor: Visitor) -> str:
    """The cookie by which nginx knows whose page somebody has open."""
    (found,) = [c["value"] for c in visitor.context.cookies() if c["name"] == "lmapps_server"]
    return str(found)


def say(visitor: Visitor, text: str) -> None:
    visitor.page.fill("#message textarea", text)
    visitor.page.keyboard.press("Enter")
    visitor.page.wait_for_selector(".stop-reply:not([disabled])", timeout=60_000)


def made_by(visitor: Visitor) -> str:
    """The process whose page somebody has open."""
    return str(visitor.page.evaluate("String(gradio_config.app_id)"))


def wait_for_takeover(visitor: Visitor, before: str) -> None:
    """Until the page has begun anew at another process, by itself."""
    visitor.page.wait_for_function(
        "before => window.gradio_config && String(gradio_config.app_id) !== before",
        arg=before, timeout=60_000,
    )  # fmt: skip
    visitor.arrive()


def wait_for_end(visitor: Visitor) -> None:
    visitor.page.wait_for_selector("#send:not([disabled])", timeout=60_000)


@pytest.mark.long
@pytest.mark.browser
def test_a_page_server_that_is_killed_is_taken_over_with_the_conversation(
    browser: Any, cluster: Cluster
) -> None:
    ann = Visitor(browser, f"{cluster.url}/")
    ann.log_in()
    say(ann, "the first question")
    wait_for_end(ann)
    before = server_of(ann)
    ann.page.fill("#message textarea", "half of the next")
    killed = cluster.pages["ab".index(before)]
    process = made_by(ann)
    killed.kill()
    wait_for_takeover(ann, process)
    ann.page.get_by_text("the first question").first.wait_for()
    assert server_of(ann) != before
    ann.page.wait_for_function(
        "document.querySelector('#message textarea').value === 'half of the next'"
    )
    say(ann, "the second question")
    wait_for_end(ann)
    ann.page.get_by_text("the second question").first.wait_for()
    stored = {turn.content for turn in stored_turns(cluster)}
    assert {"the first question", "the second question"} <= stored
    killed.start()
    killed.wait("/ready")
    say(ann, "the third question")
    wait_for_end(ann)
    assert server_of(ann) != before, "nobody is sent back to a page that is not known there"
    ann.context.close()


def stored_turns(cluster: Cluster) -> list[Any]:
    store = Store(cluster.database)
    owner = Users(store.database).find("ann").owner
    listed = reversed(store.list(owner, "chat"))  # the last one used comes last
    turns = [turn for item in listed for turn in store.load(owner, item.id).turns]
    store.close()
    return turns


def written(cluster: Cluster) -> str:
    """What is kept of the reply that is being written."""
    last = stored_turns(cluster)[-1]
    return str(last.content) if last.role == "assistant" and last.finish is None else ""


@pytest.mark.long
@pytest.mark.browser
def test_a_page_server_killed_in_the_middle_of_a_reply_leaves_what_was_written(
    browser: Any, cluster: Cluster
) -> None:
    ann = Visitor(browser, f"{cluster.url}/")
    ann.log_in()
    ann.page.get_by_role("button", name="New chat").click()
    say(ann, "killed in the middle")
    while not written(cluster):
        ann.page.wait_for_timeout(20)
    killed = cluster.pages["ab".index(server_of(ann))]
    process = made_by(ann)
    killed.kill()
    wait_for_takeover(ann, process)
    assert written(cluster), "and it can be seen that it was cut off"
    ann.page.get_by_text("killed in the middle").first.wait_for()
    ann.page.wait_for_function("document.querySelector('.bot')?.innerText.length > 0")
    ann.page.get_by_role("button", name="Retry").first.click()
    ann.page.wait_for_selector(".stop-reply:not([disabled])", timeout=60_000)
    wait_for_end(ann)
    killed.start()
    killed.wait("/ready")
    ann.context.close()


@pytest.mark.long
@pytest.mark.browser
def test_a_page_server_that_is_told_to_stop_writes_to_the_end_first(
    browser: Any, cluster: Cluster
) -> None:
    ann = Visitor(browser, f"{cluster.url}/")
    ann.log_in()
    ann.page.get_by_role("button", name="New chat").click()
    say(ann, "told to stop")
    while not written(cluster):
        ann.page.wait_for_timeout(20)
    stopped, process = cluster.pages["ab".index(server_of(ann))], made_by(ann)
    stopped.process.terminate()
    wait_for_takeover(ann, process)
    ann.page.get_by_text("told to stop").first.wait_for()
    replies = [turn for turn in stored_turns(cluster) if turn.role == "assistant"]
    assert replies[-1].finish == "stop", "neither cut off nor cancelled"
    assert stopped.process.wait(60) == -signal.SIGTERM, "by the signal, once all was written"
    stopped.start()
    stopped.wait("/ready")
    ann.context.close()
