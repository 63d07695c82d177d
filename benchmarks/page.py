"""One and many people on the page: first tokens, updates a second, memory of tabs, long chats.

    python benchmarks/page.py

A server of this process, and people in another one who speak the page's own protocol (Gradio's
queue), as browsers do. Replies have their longest length. Each person sends a message, reads the
stream of the reply, and sends the next one at once, so that all of them stream all the time; the
same is asked of the same engine without the page, in turn with it. Long replies are what a chat
has; with short ones messages come by the dozen a second, and all of them sending in the same moment
is the hardest case. Then tabs are opened, used for one message, and closed, round after round: what
a tab takes, and what is left of it. Last, a chat of 500 turns is opened and goes on, in chromium
too where Playwright finds one.

People have machines of their own: one core of this one is theirs, and the server has the others,
with and without the page.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import httpx
import machine
import torch
from visiting import Told, Visit

T = TypeVar("T")
CORES = sorted(os.sched_getaffinity(0))
PEOPLES, SERVERS = ({CORES[-1]}, {*CORES[:-1]}) if len(CORES) > 1 else ({*CORES}, {*CORES})
"""Whose core is which."""
WORDS = "Tell me a long story about a river, number {number}."
LONG_TURNS = 500
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
WATCHED = """() => {
    window.gaps = [];
    let last = performance.now();
    const frame = (now) => {
        window.gaps.push(now - last);
        last = now;
        requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
}"""
"""Notes how long the browser took for each frame, in milliseconds."""


# People, in a process of their own.


async def crowd(url: str, people: int, longest: int, seconds: int) -> dict[str, Any]:
    """All of them arrive, then talk for so long; 0 = all send one message in the same moment."""
    async with AsyncExitStack() as stack:
        https = [
            await stack.enter_async_context(client(url, f"127.0.0.{number + 2}"))
            for number in range(people)
        ]
        config = (await https[0].get("/config")).json()
        visits = [Visit(http, config) for http in https]
        begun = time.perf_counter()
        await asyncio.gather(*(visit.arrive() for visit in visits))
        arrived = time.perf_counter() - begun

        async def say(person: int, number: int) -> Told:
            return await visits[person].send(WORDS.format(number=number), longest, anew=True)

        told = await talking(say, people, seconds)
        return {"arrived": arrived, "told": [asdict(one) for one in told]}


async def talking(say: Callable[[int, int], Awaitable[T]], people: int, seconds: int) -> list[T]:
    """Everybody says one thing after another, each beginning at another moment; what came of each
    that was begun after the first quarter. Without seconds all of them say one thing at once."""
    begun = time.perf_counter()

    async def person(number: int) -> list[T]:
        if not seconds:
            return [await say(number, number)]
        await asyncio.sleep(seconds / 4 * number / people)
        told = list[tuple[float, T]]()
        while (now := time.perf_counter() - begun) < seconds:
            one = await say(number, len(told))
            told.append((now, one))
        return [one for now, one in told if now > seconds / 4]

    return [one for told in await asyncio.gather(*map(person, range(people))) for one in told]


async def tabs(url: str, count: int, longest: int) -> None:
    """So many pages are opened and used, ten at a time; then a line is said, and they stay open
    until one is read."""
    async with client(url) as http, AsyncExitStack() as stack:
        config = (await http.get("/config")).json()

        async def one(number: int) -> None:
            visit = await stack.enter_async_context(Visit(http, config).open())
            await visit.arrive()
            await visit.send(WORDS.format(number=number), longest)

        for begin in range(0, count, 10):
            await asyncio.gather(*(one(n) for n in range(begin, min(begin + 10, count))))
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.readline)


async def long_chat(url: str, name: str, conversation: str, longest: int) -> list[dict[str, float]]:
    """Somebody comes back to a conversation and goes on with it."""
    async with client(url) as http:
        visit = Visit(http, (await http.get("/config")).json(), name)
        visit.kept = json.dumps({"conversation": conversation})
        begun = time.perf_counter()
        await visit.arrive()
        opened = time.perf_counter() - begun
        told = await visit.send(WORDS.format(number=0), longest)
        return [asdict(told) | {"opened": opened}]


def client(url: str, address: str = "127.0.0.1") -> httpx.AsyncClient:
    """A client at that address: of the slots, those at one address have a share together."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    transport = httpx.AsyncHTTPTransport(local_address=address, limits=limits, verify=False)
    return httpx.AsyncClient(base_url=url, timeout=600, transport=transport)


def people(url: str, *words: str) -> subprocess.Popen[str]:
    """Start them."""
    command = [sys.executable, __file__, "--as-people", url, *words]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe)
    os.sched_setaffinity(process.pid, PEOPLES)
    return process


def through_page(url: str, *words: str) -> Any:
    """What they measured."""
    process = people(url, *words)
    told, _ = process.communicate()
    assert process.returncode == 0, words
    return json.loads(told)


# The server.


@contextmanager
def serving(
    checkpoint: str, slots: int, home: Path, weights: str = "float32"
) -> Iterator[tuple[str, Any, Any]]:
    """A server in a thread of this process: its address, its engine and its store."""
    from lmapps.discovery import discover
    from lmapps.engine.engine import Engine
    from lmapps.engine.models import Models
    from lmapps.model.checkpoint import Checkpoint
    from lmapps.paths import find_checkpoint
    from lmapps.server.serve import create_app, keep_what_is_there
    from lmapps.server.store.store import Store

    loaded = Checkpoint.load(find_checkpoint(checkpoint))
    loaded.tokenizer.end_ids = frozenset()  # all streams are as long as was asked for
    engine = Engine(loaded, slots=slots, weights=weights)
    store = Store(f"sqlite:///{home}/page.db")
    app = create_app(Models.of(engine), discover(), store)
    with machine.listening(app) as url:
        keep_what_is_there()  # as `lmapps serve`
        yield url, engine, store


async def without_page(engine: Any, people: int, longest: int, seconds: int) -> list[float]:
    """Seconds to the first text of each reply, where as many talk to the engine itself."""
    from lmapps.discovery import discover
    from lmapps.engine.application import Application, Text

    plugin = discover().plugins["chat"]
    decoding = plugin.decoding.replace(max_new_tokens=longest)

    async def say(person: int, number: int) -> float:
        asked, first = time.perf_counter(), 0.0
        talk = [{"role": "user", "content": WORDS.format(number=number)}]
        application = Application(plugin, engine, f"person {person}")
        async with aclosing(application.events({"messages": talk}, decoding)) as events:
            async for event in events:
                if isinstance(event, Text) and not first:
                    first = time.perf_counter() - asked
        return first

    return await talking(say, people, seconds)


def crowds(
    url: str, engine: Any, args: argparse.Namespace, how: str, longest: int, seconds: int
) -> dict[str, Any]:
    """Without the page and through it, in turn."""
    direct, seen, rates, arrived = list[float](), list[float](), list[float](), list[float]()
    tokens: dict[str, list[float]] = {"engine alone": [], "page": []}
    words = [str(args.people), str(longest), str(seconds)]
    for number in range(args.rounds + 1):
        with counted(engine, tokens["engine alone"]):
            alone = asyncio.run(without_page(engine, args.people, longest, seconds))
        with counted(engine, tokens["page"]):
            told = through_page(url, "crowd", *words)
        if not number:  # the first round warms both up
            continue
        direct.append(percentile(alone, 0.95))
        seen.append(percentile([each["first"] for each in told["told"]], 0.95))
        rates += [each["updates"] / (each["seconds"] - each["first"]) for each in told["told"]]
        arrived.append(told["arrived"])
    added = [1000 * (through - alone) for through, alone in zip(seen, direct, strict=True)]
    how = f"{args.people} {how}"
    return {
        f"{how}: p95 first token of the engine alone (ms)": 1000 * machine.median(direct),
        f"{how}: p95 first text on the page (ms)": 1000 * machine.median(seen),
        f"{how}: added by the page (ms)": machine.median(added),
        f"{how}: lowest and highest round": [round(value) for value in (min(added), max(added))],
        **{
            f"{how}: tokens a second, {where}": machine.median(each[1:])
            for where, each in tokens.items()
        },
        f"{how}: updates a second and stream": machine.median(rates),
        f"{how}: all have opened the page after (s)": machine.median(arrived),
    }  # fmt: skip


@contextmanager
def counted(engine: Any, rates: list[float]) -> Iterator[None]:
    """Adds how many tokens a second the engine wrote meanwhile."""
    begun, before = time.perf_counter(), engine.counts.generated_tokens
    yield
    rates.append((engine.counts.generated_tokens - before) / (time.perf_counter() - begun))


def one_person(url: str, engine: Any, rounds: int) -> dict[str, Any]:
    """Tokens a second of a long reply to somebody who is alone, of all the time from sending on."""
    rates = []
    for _ in range(rounds + 1):
        before = engine.counts.generated_tokens
        (told,) = through_page(url, "crowd", "1", "400", "0")["told"]
        rates.append((engine.counts.generated_tokens - before) / told["seconds"])
    return {
        "one person: tokens a second": machine.median(rates[1:]),
        "one person: lowest and highest round": [round(min(rates[1:])), round(max(rates[1:]))],
    }


def rounds_of_tabs(url: str, engine: Any, args: argparse.Namespace) -> dict[str, float]:
    """MB of a tab that is open, and of one that was closed."""
    closed, opened = [], []
    for number in range(args.rounds + 1):
        process = people(url, "tabs", str(args.tabs), "64")
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        here = held(engine)
        process.communicate("close\n")
        time.sleep(3)  # Gradio looks for closed pages once a second
        if number:  # the first round fills what is kept for everybody
            opened.append(here)
        closed.append(held(engine))
    return {
        "MB of an open tab": machine.median(
            [(here - before) / args.tabs for here, before in zip(opened, closed, strict=False)]
        ),
        "MB left of a closed tab": (closed[-1] - closed[0]) / (args.rounds * args.tabs),
        "MB of the process with all tabs open, by round": [round(value) for value in opened],
        "MB with all closed, by round": [round(value) for value in closed],
    }


def held(engine: Any) -> float:
    """MB of this process without the states that are kept, whose memory is bounded."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (pages * os.sysconf("SC_PAGE_SIZE") - engine.prefix_bytes) / 2**20


def long_chats(url: str, store: Any, args: argparse.Namespace) -> dict[str, float]:
    """A conversation of 500 turns, beside one of two."""
    name = "0123456789abcdef" * 2
    conversation, parent = store.begin(name, "chat", "A long one"), None
    for number in range(LONG_TURNS // 2):
        parent = store.add(name, conversation, parent, "user", f"Question {number}?", "person").id
        reply = store.add(name, conversation, parent, "assistant", "", "model")
        store.grow(reply.id, f"Answer {number}. " + "The river goes on and on. " * 8, "stop")
        parent = reply.id
    measured = {}
    (short,) = through_page(url, "crowd", "1", "120", "0")["told"]
    (told,) = through_page(url, "long", name, conversation, "120")
    measured["bytes of an update, 2 turns"] = machine.median(short["bytes"])
    measured[f"bytes of an update, {LONG_TURNS} turns"] = machine.median(told["bytes"])
    measured[f"opened by the server, {LONG_TURNS} turns (s)"] = told["opened"]
    if Path(CHROMIUM).exists() and find_spec("playwright"):
        measured |= browsed(url, name, conversation)
    return measured


def browsed(url: str, name: str, conversation: str) -> dict[str, float]:
    """The same in a real browser: until it is there, and the frames while it goes on."""
    from playwright.sync_api import sync_playwright

    place = json.dumps({"conversation": conversation, "leaf": None})
    begun = (
        "localStorage.setItem('lmapps-visitor', {}), localStorage.setItem('lmapps-place-chat', {})"
    )
    script = begun.format(json.dumps(name), json.dumps(json.dumps(place)))
    os.sched_setaffinity(0, CORES)  # the browser's, which begins here
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.evaluate(script)
        page.goto(url, wait_until="commit")
        page.get_by_text(f"Question {LONG_TURNS // 2 - 1}?").wait_for()
        page.wait_for_selector("#send:not([disabled])")
        there = page.evaluate("performance.now()") / 1000
        page.evaluate(WATCHED)
        page.fill("#message textarea", WORDS.format(number=1))
        page.press("#message textarea", "Enter")
        page.wait_for_selector("button.stop-reply:not([disabled])")
        page.evaluate("window.gaps = []")
        page.wait_for_selector("#send:not([disabled])")
        gaps = page.evaluate("window.gaps")
        browser.close()
    return {
        f"can write in a chat of {LONG_TURNS} turns, chromium (s)": there,
        "frames a second while it streams": 1000 * len(gaps) / sum(gaps),
        "longest frame while it streams (ms)": max(gaps),
    }


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as home,
        serving(args.checkpoint, args.slots, Path(home)) as (url, engine, store),
    ):
        measured = one_person(url, engine, args.rounds)
        measured |= crowds(url, engine, args, "streaming", args.longest, args.seconds)
        short = "with short replies, asking at once"
        measured |= crowds(url, engine, args, short, args.short, args.seconds // 2)
        measured |= crowds(url, engine, args, "in the same moment", args.short, 0)
        measured |= rounds_of_tabs(url, engine, args)
        return measured | long_chats(url, store, args)


def as_people(url: str, what: str, *words: str) -> None:
    works = {"crowd": crowd, "tabs": tabs, "long": long_chat}
    values = [int(word) if word.isdecimal() and len(word) < 9 else word for word in words]
    told = asyncio.run(works[what](url, *values))  # type: ignore[operator]
    if told is not None:
        print(json.dumps(told))


def main() -> None:
    if sys.argv[1:2] == ["--as-people"]:
        as_people(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--slots", type=int, default=72, help="an address gets seven eighths")
    parser.add_argument("--seconds", type=int, default=20, help="of talking, each time")
    parser.add_argument("--longest", type=int, default=300, help="tokens of a reply")
    parser.add_argument("--short", type=int, default=50, help="tokens of a short reply")
    parser.add_argument("--tabs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--threads", type=int, default=len(SERVERS))
    args = parser.parse_args()
    os.sched_setaffinity(0, SERVERS)
    torch.set_num_threads(args.threads)
    measured = measure(args)
    rows = [[name, v if isinstance(v, list) else f"{v:.3g}"] for name, v in measured.items()]
    print(machine.table(["", "measured"], rows))
    about = {"machine": machine.describe(args.threads), "settings": vars(args)}
    print(f"\nwritten to {machine.write('page', about | {'measured': measured})}")


if __name__ == "__main__":
    main()
