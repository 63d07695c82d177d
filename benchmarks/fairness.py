"""One client that sends without pause beside 31 others -> how long these wait for a first token.

    python benchmarks/fairness.py --rounds 3 --seconds 40

A real server in a process of its own, 31 clients from addresses of their own (127.0.0.2 and on)
that ask, read the reply, and think for a while; in every second turn one more that always has 64
requests under way, and asks again as soon as one ends or is refused. It has a process of its own,
too, which works only when nobody else does: what a client computes is not the server's to share.
The table has the others' time to the first token without it and with it. The exit status is 1 where
the 95th percentile with it is more than twice that without, or where one of the others was refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.sharedctypes import Synchronized
from typing import Any
from urllib.parse import urlsplit

import httpx
import machine

OTHERS = 31
FLOOD = 64
"""Requests that the one client always has under way."""
MOST_TIMES = 2.0


def words(rng: random.Random) -> str:
    return " ".join(rng.choice(("rain", "the cat", "why", "a tree", "tell me")) for _ in range(20))


def body(rng: random.Random, tokens: int) -> dict[str, Any]:
    asked = [{"role": "user", "content": words(rng)}]
    return {"messages": asked, "max_tokens": tokens, "stream": True, "temperature": 0.8}


class Turn:
    """One stretch of traffic, and what the others waited, in seconds."""

    def __init__(self, url: str, seconds: float, pause: float, tokens: int, seed: int) -> None:
        self.url, self.pause, self.tokens = url, pause, tokens
        self.until = time.monotonic() + seconds
        self.random = random.Random(seed)
        self.waited: list[float] = []
        self.refused = 0

    def client(self, number: int) -> httpx.AsyncClient:
        """From an address of its own: the server's shares are those of addresses."""
        transport = httpx.AsyncHTTPTransport(local_address=address(number))
        return httpx.AsyncClient(transport=transport, base_url=self.url, timeout=600)

    async def other(self, number: int) -> None:
        rng = random.Random(self.random.random())
        async with self.client(number) as http:
            await asyncio.sleep(rng.random() * self.pause)
            while time.monotonic() < self.until:
                started = time.monotonic()
                first = await self._read(http, body(rng, self.tokens))
                if first is None:
                    self.refused += 1
                else:
                    self.waited.append(first - started)
                await asyncio.sleep(rng.expovariate(1 / self.pause))

    async def _read(self, http: httpx.AsyncClient, asked: dict[str, Any]) -> float | None:
        """When the first text came; None where the request was refused."""
        first = None
        async with http.stream("POST", "/v1/chat/completions", json=asked) as response:
            if response.status_code != 200:
                await response.aread()
                return None
            async for line in response.aiter_lines():
                if first is None and line.startswith("data: {"):
                    choices = json.loads(line[6:])["choices"]
                    if choices and choices[0]["delta"].get("content"):
                        first = time.monotonic()
        return first or time.monotonic()


async def others(turn: Turn) -> None:
    await asyncio.gather(*(turn.other(number) for number in range(OTHERS)))


def flood(url: str, tokens: int, sent: Synchronized[int]) -> None:
    """The one client, until it is ended; a process of its own. It reads what comes, and no more."""
    os.nice(19)
    asyncio.run(_flood(url, tokens, sent))


async def _flood(url: str, tokens: int, sent: Synchronized[int]) -> None:
    await asyncio.gather(*(_without_pause(url, tokens, sent, n) for n in range(FLOOD)))


async def _without_pause(url: str, tokens: int, sent: Synchronized[int], seed: int) -> None:
    rng, parts = random.Random(seed), urlsplit(url)
    while True:
        sent.value += 1
        asked = json.dumps(body(rng, tokens)).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(asked)}\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port, local_addr=(address(OTHERS), 0)
        )
        writer.write(head.encode() + asked)
        while await reader.read(65_536):
            pass
        writer.close()


@contextmanager
def flooded(url: str, tokens: int) -> Iterator[Synchronized[int]]:
    """Beside the one client; how many requests it has sent."""
    spawning = multiprocessing.get_context("spawn")
    sent: Synchronized[int] = spawning.Value("q")
    process = spawning.Process(target=flood, args=(url, tokens, sent), daemon=True)
    process.start()
    while sent.value < FLOOD:
        time.sleep(0.05)
    try:
        yield sent
        if not process.is_alive():
            raise RuntimeError("the client that sends without pause has ended before the others")
    finally:
        process.kill()
        process.join()


def address(number: int) -> str:
    return f"127.0.0.{number + 2}"


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def serve(checkpoint: str, port: int, slots: int, folder: str) -> subprocess.Popen[bytes]:
    """`lmapps serve`, once it is ready."""
    command = [
        sys.executable, "-m", "lmapps", "serve", "--checkpoint", checkpoint, "--port", str(port),
        "--slots", str(slots), "--log", "error", "--database", f"sqlite:///{folder}/fairness.db",
    ]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    machine.wait_until_ready(server, f"http://127.0.0.1:{port}")
    return server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--pause", type=float, default=2, help="mean seconds of thinking")
    parser.add_argument("--tokens", type=int, default=32, help="of a reply; four times for the one")
    parser.add_argument("--slots", type=int, default=16)
    args = parser.parse_args()
    kinds = ("without", "with")
    waited: dict[str, list[float]] = {kind: [] for kind in kinds}
    refused: dict[str, int] = dict.fromkeys(kinds, 0)
    sent, port = 0, machine.free_port()
    with tempfile.TemporaryDirectory() as folder:
        server = serve(args.checkpoint, port, args.slots, folder)
        try:
            for number in range(args.rounds + 1):  # the first is not counted
                for kind in kinds:
                    url = f"http://127.0.0.1:{port}"
                    one = flooded(url, 4 * args.tokens) if kind == "with" else nullcontext()
                    with one as counted:
                        turn = Turn(url, args.seconds, args.pause, args.tokens, number)
                        asyncio.run(others(turn))
                    if number:
                        waited[kind] += turn.waited
                        refused[kind] += turn.refused
                        sent += counted.value if counted else 0
                    print(f"{kind}: done, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        finally:
            server.terminate()
            server.wait(60)
    if not all(waited.values()):
        sys.exit("in one kind of turn nobody got an answer")
    rows = [
        [
            kind, len(waited[kind]), refused[kind],
            *(f"{1000 * percentile(waited[kind], share):.0f}" for share in (0.5, 0.95, 0.99)),
        ]
        for kind in kinds
    ]  # fmt: skip
    header = ["", "requests of the others", "refused", "median, ms", "95%, ms", "99%, ms"]
    print(machine.table(header, rows))
    times = percentile(waited["with"], 0.95) / percentile(waited["without"], 0.95)
    print(f"\n95%: {times:.2f} times as long beside a client that sent {sent} requests")
    result = {
        "machine": machine.describe(os.cpu_count() or 1), "settings": vars(args), "times": times,
        "waited": waited, "refused": refused, "sent": sent,
    }  # fmt: skip
    print(f"written to {machine.write('fairness', result)}")
    sys.exit(times > MOST_TIMES or sum(refused.values()) > 0)


if __name__ == "__main__":
    main()
