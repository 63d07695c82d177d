"""Many people at once on the page: first tokens, updates a second, memory of tabs that come and go.

    python benchmarks/page.py --people 60 --tabs 100

A server of this process, and people in another one who speak the page's own protocol (Gradio's
queue), as browsers do. They all send a message in the same moment and read the stream of their
reply. The same number of requests goes to the same engine without the page, in turn with it.
Afterwards tabs are opened, used for one message and closed, round after round: what the process
holds may not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import machine
import torch

WORDS = "Tell me a long story about a river, number {number}."


class Visit:
    """One open page: a session of Gradio's, and the stream of what it is told."""

    def __init__(self, http: httpx.AsyncClient, config: dict[str, Any]) -> None:
        self.http, self.config = http, config
        self.session = f"{random.getrandbits(64):016x}"
        self.components = {each["id"]: each for each in config["components"]}

    async def arrive(self) -> None:
        """What every page asks for when it is opened."""
        for number, event in enumerate(self.config["dependencies"]):
            if event["targets"] and event["targets"][0][1] == "load" and event["backend_fn"]:
                await self.run(number, self._values(event["inputs"]))
        await self.run(self._named("_on_arrive"), [{"visitor": "", "conversation": ""}])

    async def send(self, text: str, longest: int) -> dict[str, float]:
        """Seconds to the first text of the reply and to its end, and how often it was updated."""
        number = self._named("_on_send")
        inputs = self.config["dependencies"][number]["inputs"]
        values = self._values(inputs)
        values[1] = text
        for place, component in enumerate(inputs):
            if "Longest reply" in str(self.components[component]["props"].get("label")):
                values[place] = longest
        return await self.run(number, values)

    async def run(self, number: int, values: list[Any]) -> dict[str, float]:
        """One event of the page, to its end."""
        asked = time.perf_counter()
        event = await self._join(number, values)
        first, updates = 0.0, 0
        url = f"/gradio_api/queue/data?session_hash={self.session}"
        async with self.http.stream("GET", url) as told:
            async for line in told.aiter_lines():
                if not line.startswith("data: "):
                    continue
                message = json.loads(line.removeprefix("data: "))
                if message.get("event_id") != event:
                    continue
                if message["msg"] == "process_generating":
                    updates += 1
                    if not first and '"assistant"' in line:
                        first = time.perf_counter() - asked
                elif message["msg"] == "process_completed":
                    assert message["success"], message
                    break
        seconds = time.perf_counter() - asked
        return {"first": first, "seconds": seconds, "updates": updates}

    async def _join(self, number: int, values: list[Any]) -> str:
        body = {"data": values, "fn_index": number, "session_hash": self.session}
        answer = await self.http.post("/gradio_api/queue/join", json=body)
        answer.raise_for_status()
        return answer.json()["event_id"]

    def _values(self, inputs: list[int]) -> list[Any]:
        return [self.components[number]["props"].get("value") for number in inputs]

    def _named(self, name: str) -> int:
        events = enumerate(self.config["dependencies"])
        return next(number for number, event in events if event["api_name"].startswith(name))


async def crowd(url: str, people: int, longest: int) -> list[dict[str, float]]:
    """All of them arrive, then all of them send at once."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        config = (await http.get("/config")).json()
        visits = [Visit(http, config) for _ in range(people)]
        await asyncio.gather(*(visit.arrive() for visit in visits))
        return await asyncio.gather(
            *(visit.send(WORDS.format(number=n), longest) for n, visit in enumerate(visits))
        )


async def tabs(url: str, count: int, longest: int) -> None:
    """So many pages are opened one after the other, used and closed; five at a time."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        config = (await http.get("/config")).json()

        async def one(number: int) -> None:
            visit = Visit(http, config)
            beat = f"/gradio_api/heartbeat/{visit.session}"
            async with http.stream("GET", beat):  # a page is closed when this ends
                await visit.arrive()
                await visit.send(WORDS.format(number=number), longest)

        for begin in range(0, count, 5):
            await asyncio.gather(*(one(n) for n in range(begin, min(begin + 5, count))))


@contextmanager
def serving(checkpoint: str) -> Iterator[tuple[str, Any]]:
    """A server in a thread of this process: its address and its engine."""
    from lmapps.discovery import discover
    from lmapps.engine.engine import Engine
    from lmapps.engine.models import Models
    from lmapps.model.checkpoint import Checkpoint
    from lmapps.paths import find_checkpoint
    from lmapps.server.serve import create_app
    from lmapps.server.store.store import Store

    engine = Engine(Checkpoint.load(find_checkpoint(checkpoint)))
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Models.of(engine), discover(), Store(f"sqlite:///{folder}/page.db"))
        with machine.listening(app) as url:
            yield url, engine


async def without_page(engine: Any, people: int, longest: int) -> list[float]:
    """Seconds to the first text of so many requests at once, each of another person."""
    from lmapps.discovery import discover
    from lmapps.engine.application import Application, Text

    plugin = discover().plugins["chat"]
    decoding = plugin.decoding.replace(max_new_tokens=longest)

    async def one(number: int) -> float:
        asked, first = time.perf_counter(), 0.0
        talk = [{"role": "user", "content": WORDS.format(number=number)}]
        application = Application(plugin, engine, f"person {number}")
        async with aclosing(application.events({"messages": talk}, decoding)) as events:
            async for event in events:
                if isinstance(event, Text) and not first:
                    first = time.perf_counter() - asked
        return first

    return await asyncio.gather(*(one(number) for number in range(people)))


def through_page(url: str, *words: str) -> Any:
    """What people in a process of their own measure."""
    command = [sys.executable, __file__, "--as-people", url, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def rounds_of_tabs(url: str, engine: Any, args: argparse.Namespace) -> list[float]:
    """MB that the process holds, before and after each round, without the states that are kept."""
    held = []
    for number in range(args.rounds + 1):
        if number:
            through_page(url, "tabs", str(args.tabs), "16")
        time.sleep(2)  # for what Gradio does when a page is closed
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held.append((pages * os.sysconf("SC_PAGE_SIZE") - engine.prefix_bytes) / 2**20)
    return held


def measure(args: argparse.Namespace) -> dict[str, Any]:
    direct, inside, seen, rates = list[float](), list[float](), list[float](), list[float]()
    with serving(args.checkpoint) as (url, engine):
        times = list[float]()
        engine.counts.first_token.add = times.append  # each one, not its class
        for number in range(args.rounds + 1):
            direct_round = asyncio.run(without_page(engine, args.people, args.longest))
            times.clear()
            people = through_page(url, "crowd", str(args.people), str(args.longest))
            if number:  # the first round warms both up
                direct += direct_round
                inside += times
                seen += [each["first"] for each in people]
                rates += [e["updates"] / max(e["seconds"] - e["first"], 0.1) for e in people]
        held = rounds_of_tabs(url, engine, args)
    return {
        "engine without the page, p95 first token (ms)": 1000 * percentile(direct, 0.95),
        "engine under the page, p95 first token (ms)": 1000 * percentile(inside, 0.95),
        "seen by people on the page, p95 first text (ms)": 1000 * percentile(seen, 0.95),
        "updates a second and stream, median": machine.median(rates),
        "MB held before and after each round of tabs": [round(value) for value in held],
    }


def as_people(url: str, what: str, count: str, longest: str) -> None:
    work = {"crowd": crowd, "tabs": tabs}[what]
    print(json.dumps(asyncio.run(work(url, int(count), int(longest)))))


def main() -> None:
    if sys.argv[1:2] == ["--as-people"]:
        as_people(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--longest", type=int, default=120, help="tokens of a reply")
    parser.add_argument("--tabs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    measured = measure(args)
    rows = [[name, v if isinstance(v, list) else f"{v:.1f}"] for name, v in measured.items()]
    print(machine.table(["", "measured"], rows))
    about = {"machine": machine.describe(args.threads), "settings": vars(args)}
    print(f"\nwritten to {machine.write('page', about | {'measured': measured})}")


if __name__ == "__main__":
    main()
