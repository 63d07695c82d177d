"""Mixed traffic with cancels, dropped connections and failures -> is anything leaked or unanswered?

    python benchmarks/soak.py --minutes 30

Clients talk to a real server of this process over HTTP. They stream and do not, go on with a
chat, ask for several replies or for JSON, send what is wrong, and hang up in the middle; now and
then a step of the model fails. At the end no slot, thread or file may be left over, every request
that was accepted has ended, and in a run of ten minutes or more memory may not have grown since
the first third. The exit status is 1 where that does not hold, and the reasons are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import machine
import torch

SCHEMA = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}, "number": {"type": "integer"}},
    "required": ["sure", "number"],
    "additionalProperties": False,
}
WRONG: list[dict[str, Any]] = [
    {"temperature": 9}, {"messages": []}, {"n": 99}, {"stop": [""]}, {"tools": [{}]},
    {"response_format": {"type": "xml"}}, {"regex": "("}, {"model": "another"},
    {"messages": [{"role": "user", "content": "long " * 20_000}]},
]  # fmt: skip
MEMORY_SLACK = 1.1
"""Memory at the end may be so much larger than after the first third, and 32 MB."""
SECONDS_TO_FILL = 600
"""In a shorter run libraries and kept states are still filling what they may: it is not judged."""


@dataclass
class Sample:
    """What the process holds at a moment."""

    seconds: float
    threads: int
    files: int
    memory_mb: float
    """Without the states that are kept for the next turn, whose memory is bounded."""
    running: int
    waiting: int


class Soak:
    """The traffic of one run, and what came of each request."""

    def __init__(self, url: str, engine: Any, seed: int) -> None:
        self.url, self.engine, self.rng = url, engine, random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []
        self.failing = random.Random(seed)

    def fail_sometimes(self, every: int) -> None:
        """Make one in so many decoding steps fail."""
        slots = self.engine._scheduler.slots
        decode = slots.decode

        def decode_or_fail() -> torch.Tensor:
            if self.failing.randrange(every) == 0:
                raise RuntimeError("a failure on purpose")
            return decode()

        slots.decode = decode_or_fail

    async def client(self, number: int, until: float) -> None:
        """One person who asks again and again, in many ways."""
        rng = random.Random(self.rng.random())
        talk: list[dict[str, str]] = []
        async with httpx.AsyncClient(base_url=self.url, timeout=120) as http:
            while time.monotonic() < until:
                talk = talk[-6:] if rng.random() < 0.8 else []
                body = self._body(rng, talk, number)
                try:
                    await self._ask(http, rng, body, talk)
                except httpx.TimeoutException:
                    self.outcomes["hung up"] += 1
                except httpx.HTTPError as error:
                    self.faults.append(f"{type(error).__name__}: {error} for {str(body)[:200]}")
                await asyncio.sleep(rng.random() * 0.05)

    def _body(self, rng: random.Random, talk: list[dict[str, str]], number: int) -> dict[str, Any]:
        talk.append({"role": "user", "content": f"Question {rng.randrange(1000)}: why? " * 3})
        return {
            "messages": list(talk),
            "max_tokens": rng.randrange(1, 60),
            "temperature": rng.choice([0, 0.8, 1.2]),
            "user": f"person {number}" if number % 2 else None,
        }

    async def _ask(
        self, http: httpx.AsyncClient, rng: random.Random, body: dict[str, Any], talk: list[Any]
    ) -> None:
        path = "/v1/chat/completions"
        match rng.choice(["stream", "stream", "whole", "several", "json", "drop", "hang up",
                          "wrong", "app", "metrics"]):  # fmt: skip
            case "stream":
                await self._stream(http, body, None)
            case "drop":
                await self._stream(http, body | {"max_tokens": 5000}, rng.randrange(1, 10))
            case "whole":
                answer = await self._post(http, path, body)
                if answer and "choices" in answer:
                    reply = answer["choices"][0]["message"]["content"]
                    talk.append({"role": "assistant", "content": reply})
            case "several":
                await self._post(http, path, body | {"n": 3, "logprobs": True})
            case "json":
                wanted = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
                await self._post(http, path, body | {"response_format": wanted})
            case "hang up":
                await http.post(path, json=body | {"max_tokens": 5000}, timeout=rng.random() / 4)
            case "wrong":
                await self._post(http, path, body | rng.choice(WRONG))
            case "app":
                form = {"headline": "Rain", "stream": False, "decoding": {"max_new_tokens": 9}}
                await self._post(http, "/apps/news", form)
            case "metrics":
                (await http.get("/metrics")).raise_for_status()

    async def _post(
        self, http: httpx.AsyncClient, path: str, body: dict[str, Any]
    ) -> dict[str, Any] | None:
        response = await http.post(path, json=body)
        self._judge(response.status_code, response.text)
        return response.json() if response.status_code == 200 else None

    async def _stream(
        self, http: httpx.AsyncClient, body: dict[str, Any], drop_after: int | None
    ) -> None:
        events = 0
        last = ""
        async with http.stream(
            "POST", "/v1/chat/completions", json=body | {"stream": True}
        ) as response:
            if response.status_code != 200:
                return self._judge(response.status_code, (await response.aread()).decode())
            async for line in response.aiter_lines():
                events += line.startswith("data: ")
                last = line or last
                if drop_after and events >= drop_after:
                    self.outcomes["dropped"] += 1
                    return None
        if last != "data: [DONE]":
            self.faults.append(f"a stream ended with {last[:100]!r}")
        self.outcomes["streamed"] += 1
        return None

    def _judge(self, status: int, text: str) -> None:
        """An answer, or an error with a reason; anything else is a fault."""
        self.outcomes[str(status)] += 1
        if status == 200:
            return
        try:
            reason = json.loads(text)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            reason = ""
        if not reason or (status >= 500 and "a failure on purpose" not in reason):
            self.faults.append(f"{status} with {text[:200]!r}")

    def sample(self, started: float) -> Sample:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return Sample(
            time.monotonic() - started,
            threading.active_count(),
            len(os.listdir("/proc/self/fd")),
            (pages * os.sysconf("SC_PAGE_SIZE") - self.engine.prefix_bytes) / 2**20,
            self.engine.running,
            self.engine.waiting,
        )


async def traffic(soak: Soak, clients: int, seconds: float) -> list[Sample]:
    """Let the clients go on for so long; samples of the process, twenty in all."""
    started = time.monotonic()
    until = started + seconds
    tasks = [asyncio.create_task(soak.client(n, until)) for n in range(clients)]
    samples = []
    for number in range(1, 21):
        await asyncio.sleep(max(0, started + seconds * number / 20 - time.monotonic()))
        samples.append(soak.sample(started))
    await asyncio.gather(*tasks)
    return samples


def reasons(soak: Soak, before: Sample, samples: list[Sample], after: Sample) -> Iterator[str]:
    """What does not hold."""
    yield from soak.faults[:20]
    counts = soak.engine.counts
    if after.running or after.waiting:
        yield f"{after.running} slots are taken and {after.waiting} requests wait with nobody there"
    if counts.accepted != sum(counts.finished.values()):
        yield f"{counts.accepted} requests were accepted, {dict(counts.finished)} ended"
    if counts.reused_tokens + counts.read_tokens > counts.prompt_tokens:
        yield "more prompt tokens were read and reused than there were"
    if after.files > before.files + 2:
        yield f"{after.files} open files, {before.files} before"
    # Worker threads stay for the next call; what counts is that they do not become more.
    first_third = samples[: len(samples) // 3]
    if after.threads > max(sample.threads for sample in first_third) + 8:
        yield f"{after.threads} threads, {max(s.threads for s in first_third)} in the first third"
    is_long = samples[-1].seconds >= SECONDS_TO_FILL
    if is_long and after.memory_mb > first_third[-1].memory_mb * MEMORY_SLACK + 32:
        grown = f"{after.memory_mb:.0f} MB, {first_third[-1].memory_mb:.0f} after the first third"
        yield f"memory grew: {grown}"


@contextmanager
def serving(checkpoint: str, slots: int) -> Iterator[tuple[str, Any]]:
    """A server in a thread of this process: its address and its engine."""
    import uvicorn

    from lmapps.discovery import discover
    from lmapps.engine.engine import Engine
    from lmapps.engine.models import Models
    from lmapps.model.checkpoint import Checkpoint
    from lmapps.paths import find_checkpoint
    from lmapps.server.serve import create_app
    from lmapps.server.store.store import Store

    engine = Engine(Checkpoint.load(find_checkpoint(checkpoint)), slots=slots, queue=32)
    store = Store(f"sqlite:///{tempfile.mkdtemp()}/soak.db")
    app = create_app(Models.of(engine), discover(), store)
    config = uvicorn.Config(app, port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", engine
    server.should_exit = True
    thread.join(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--fail-every", type=int, default=2000, help="steps; 0 = never")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with serving(args.checkpoint, args.slots) as (url, engine):
        soak = Soak(url, engine, args.seed)
        if args.fail_every:
            soak.fail_sometimes(args.fail_every)
        before = soak.sample(time.monotonic())
        samples = asyncio.run(traffic(soak, args.clients, args.minutes * 60))
        deadline = time.monotonic() + 60
        while (engine.running or engine.waiting) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)  # uvicorn closes its side of the connections
        gc.collect()
        after = soak.sample(time.monotonic())
        wrong = list(reasons(soak, before, samples, after))
        counts, passes = engine.counts, engine.passes
    rows = [[f"{v:.0f}" for v in asdict(sample).values()] for sample in [*samples[4::5], after]]
    print(machine.table(list(asdict(after)), rows))
    print(f"\noutcomes: {dict(sorted(soak.outcomes.items()))}")
    print(
        f"engine: {counts.accepted} accepted, {counts.refused} refused, {dict(counts.finished)}, "
    )
    print(f"{passes} passes, {counts.generated_tokens} tokens, {counts.reused_tokens} reused")
    result = {
        "machine": machine.describe(args.threads),
        "settings": vars(args),
        "outcomes": dict(soak.outcomes),
        "finished": dict(counts.finished),
        "samples": [asdict(sample) for sample in samples],
        "wrong": wrong,
    }
    print(f"written to {machine.write('soak', result)}")
    for reason in wrong:
        print(f"wrong: {reason}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
