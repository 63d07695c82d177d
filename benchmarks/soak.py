"""Mixed traffic with cancels, dropped connections and failures -> is anything leaked or unanswered?

    python benchmarks/soak.py --minutes 30

Clients talk to a real server of this process over HTTP, each from an address of its own. They
stream and do not, go on with a chat, ask for several replies or for JSON, send what is wrong, and
hang up in the middle; now and then a step of a model fails. One in ten asks another model than the
default one: a recurrent one, or one that only transformers knows; there is memory for two of the
three, so that models are loaded and freed all the time. At the end no slot, thread or file may be
left over, no model may be held, every request that was accepted has ended, and in a run of ten
minutes or more memory may not have grown since the first third. The exit status is 1 where that
does not hold, and the reasons are printed.
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
KINDS = (
    "stream", "stream", "whole", "several", "json", "drop", "hang up", "wrong", "app", "metrics",
)  # fmt: skip
OTHERS = ("recurrent", "foreign")
"""Models that one in ten asks for."""
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
    models: int
    """How many are loaded."""


class Soak:
    """The traffic of one run, and what came of each request."""

    def __init__(self, url: str, models: Any, seed: int) -> None:
        self.url, self.models, self.rng = url, models, random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []

    @property
    def running(self) -> int:
        """Slots that are taken, on whatever model."""
        return sum(model.running for model in self.models.loaded)

    @property
    def waiting(self) -> int:
        return sum(model.waiting for model in self.models.loaded)

    async def client(self, number: int, until: float) -> None:
        """One person who asks again and again, in many ways."""
        rng = random.Random(self.rng.random())
        talk: list[dict[str, str]] = []
        transport = httpx.AsyncHTTPTransport(local_address=f"127.0.0.{number + 2}")
        async with httpx.AsyncClient(base_url=self.url, timeout=120, transport=transport) as http:
            while time.monotonic() < until:
                talk = talk[-6:] if rng.random() < 0.8 else []
                body, began = self._body(rng, talk, number), time.monotonic()
                kind = rng.choice(KINDS)
                try:
                    await self._ask(http, rng, kind, body, talk)
                except httpx.HTTPError as error:
                    if kind == "hang up" and isinstance(error, httpx.TimeoutException):
                        self.outcomes["hung up"] += 1
                        continue
                    after = f"after {time.monotonic() - began:.1f} s"
                    self.faults.append(f"{kind}: {error!r} {after} for {str(body)[-200:]}")
                await asyncio.sleep(rng.random() * 0.05)

    def _body(self, rng: random.Random, talk: list[dict[str, str]], number: int) -> dict[str, Any]:
        talk.append({"role": "user", "content": f"Question {rng.randrange(1000)}: why? " * 3})
        return {
            "messages": list(talk),
            "max_tokens": rng.randrange(1, 60),
            "temperature": rng.choice([0, 0.8, 1.2]),
            "user": f"person {number}" if number % 2 else None,
            "model": rng.choice(OTHERS) if rng.random() < 0.1 else "default",
        }

    async def _ask(
        self, http: httpx.AsyncClient, rng: random.Random, kind: str, body: dict[str, Any],
        talk: list[Any],
    ) -> None:  # fmt: skip
        path = "/v1/chat/completions"
        match kind:
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
                form["model"] = body["model"]
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
        events, last, failed = 0, "", False
        async with http.stream(
            "POST", "/v1/chat/completions", json=body | {"stream": True}
        ) as response:
            if response.status_code != 200:
                return self._judge(response.status_code, (await response.aread()).decode())
            async for line in response.aiter_lines():
                events += line.startswith("data: ")
                last = line or last
                if line.startswith('data: {"error"'):
                    failed = True
                    self._judge(500, line.removeprefix("data: "))
                if drop_after and events >= drop_after:
                    self.outcomes["dropped"] += 1
                    return None
        if last != "data: [DONE]":
            self.faults.append(f"a stream ended with {last[:100]!r}")
        if not failed:
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
        kept = sum(model.prefix_bytes for model in self.models.loaded)
        return Sample(
            time.monotonic() - started,
            threading.active_count(),
            len(os.listdir("/proc/self/fd")),
            (pages * os.sysconf("SC_PAGE_SIZE") - kept) / 2**20,
            self.running,
            self.waiting,
            len(self.models.loaded),
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


def reasons(
    soak: Soak, opened: list[Any], before: Sample, samples: list[Sample], after: Sample
) -> Iterator[str]:
    """What does not hold; `opened` are the counts of each model that was ever loaded."""
    yield from soak.faults[:20]
    if after.running or after.waiting:
        yield f"{after.running} slots are taken and {after.waiting} requests wait with nobody there"
    for model in soak.models.describe():
        if model.users or model.state == "loading":
            yield f"the model {model.name} is {model.state}, {model.users} requests hold it"
    for counts in opened:
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
    if is_long and len(opened) < 10:
        yield f"models were loaded only {len(opened)} times: hardly anything was switched"
    if is_long and after.memory_mb > first_third[-1].memory_mb * MEMORY_SLACK + 32:
        grown = f"{after.memory_mb:.0f} MB, {first_third[-1].memory_mb:.0f} after the first third"
        yield f"memory grew: {grown}"


class Opener:
    """Loads the models, makes their steps fail sometimes, and remembers the counts of each."""

    def __init__(self, slots: int, fail_every: int, seed: int) -> None:
        from lmapps.engine.backends.source import Opening

        self.opening = Opening(slots=slots, queue=32)
        self.fail_every, self.failing = fail_every, random.Random(seed)
        self.counts: list[Any] = []

    def __call__(self, source: Any) -> Any:
        from lmapps.engine.backends.source import open_backend

        engine: Any = open_backend(source, self.opening)
        self.counts.append(engine.counts)
        slots = engine._scheduler.slots
        decode, every, failing = slots.decode, self.fail_every, self.failing

        def decode_or_fail() -> torch.Tensor:
            if every and failing.randrange(every) == 0:
                raise RuntimeError("a failure on purpose")
            return decode()

        slots.decode = decode_or_fail
        return engine


def write_others(default: Path, folder: Path) -> None:
    """Small random models with the default one's tokenizer, one for each of `OTHERS`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from lmapps.model.checkpoint import Checkpoint
    from lmapps.model.config import ModelConfig
    from lmapps.model.language_model import LanguageModel

    checkpoint = Checkpoint.load(default)
    vocab, context = checkpoint.config.vocab_size, checkpoint.config.context
    gru = ModelConfig.from_size("tiny", body="gru", vocab_size=vocab, context=context)
    Checkpoint(LanguageModel(gru).eval(), checkpoint.tokenizer, checkpoint.template).save(
        folder / "recurrent"
    )
    (end,) = sorted(checkpoint.tokenizer.end_ids)[:1]
    config = GPT2Config(
        vocab_size=vocab, n_positions=context, n_embd=64, n_layer=2, n_head=2,
        bos_token_id=checkpoint.tokenizer.bos_id, eos_token_id=end,
    )  # fmt: skip
    checkpoint.save(folder / "foreign")  # the tokenizer and the template
    GPT2LMHeadModel(config).save_pretrained(folder / "foreign")


@contextmanager
def serving(checkpoint: str, opener: Opener) -> Iterator[tuple[str, Any]]:
    """A server in a thread of this process: its address and its models."""
    from lmapps.discovery import discover
    from lmapps.engine.backends.source import Source
    from lmapps.engine.models import Models
    from lmapps.paths import find_checkpoint
    from lmapps.server.serve import create_app
    from lmapps.server.store.store import Store

    with tempfile.TemporaryDirectory() as folder:
        default = find_checkpoint(checkpoint)
        write_others(default, Path(folder))
        sources = [Source("default", str(default))]
        sources += [Source(name, str(Path(folder) / name)) for name in OTHERS]
        sizes = {source.name: size_of(source, opener) for source in sources}
        budget = sizes["default"] + max(sizes[name] for name in OTHERS)
        models = Models(sources, opener, lambda source: sizes[source.name], budget=budget)
        models.load()
        store = Store(f"sqlite:///{folder}/soak.db")
        with machine.listening(create_app(models, discover(), store)) as url:
            yield url, models


def size_of(source: Any, opener: Opener) -> int:
    """Memory of a model that is loaded."""
    backend = opener(source)
    backend.close()
    return int(backend.bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--fail-every", type=int, default=2000, help="steps; 0 = never")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="soak", help="of the JSON file in results/, or a path")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    opener = Opener(args.slots, args.fail_every, args.seed)
    with serving(args.checkpoint, opener) as (url, models):
        soak = Soak(url, models, args.seed)
        before = soak.sample(time.monotonic())
        samples = asyncio.run(traffic(soak, args.clients, args.minutes * 60))
        deadline = time.monotonic() + 60
        while (soak.running or soak.waiting) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)  # uvicorn closes its side of the connections
        gc.collect()
        after = soak.sample(time.monotonic())
        wrong = list(reasons(soak, opener.counts, before, samples, after))
    finished: Counter[str] = Counter()
    for counts in opener.counts:
        finished.update(counts.finished)
    total = {
        name: sum(getattr(counts, name) for counts in opener.counts)
        for name in ("accepted", "refused", "passes", "generated_tokens", "reused_tokens")
    }
    rows = [[f"{v:.0f}" for v in asdict(sample).values()] for sample in [*samples[4::5], after]]
    print(machine.table(list(asdict(after)), rows))
    print(f"\noutcomes: {dict(sorted(soak.outcomes.items()))}")
    print(f"models were loaded {len(opener.counts)} times")
    print(", ".join(f"{count} {name}" for name, count in total.items()) + f", {dict(finished)}")
    result = {
        "machine": machine.describe(args.threads),
        "settings": vars(args),
        "outcomes": dict(soak.outcomes),
        "finished": dict(finished),
        "loaded": len(opener.counts),
        **total,
        "before": asdict(before),
        "samples": [asdict(sample) for sample in samples],
        "after": asdict(after),
        "wrong": wrong,
    }
    print(f"written to {machine.write(args.name, result)}")
    for reason in wrong:
        print(f"wrong: {reason}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
