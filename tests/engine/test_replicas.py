"""Copies of a model behind one name: requests are placed, and whoever asks notices nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lmapps.decoding import Decoding
from lmapps.engine import devices
from lmapps.engine.backends.foreseen import foreseen_bytes
from lmapps.engine.backends.replicas import NEAR, Replicas
from lmapps.engine.backends.source import Opening, Source, open_backend
from lmapps.engine.engine import Engine
from lmapps.messages import Message
from lmapps.model.checkpoint import Checkpoint
from lmapps.native.torch_step import TorchStep
from lmapps.server.api.connection import merged

ENDLESS = Decoding(temperature=0.9, max_new_tokens=100)


@pytest.fixture
def replicas(
    endless_checkpoint: Callable[[str], Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Replicas]:
    endless_checkpoint("transformer").save(tmp_path / "twice")
    opening = Opening(slots=4, queue=8, devices=("cpu", "cpu"))
    both = open_backend(Source("twice", str(tmp_path / "twice")), opening)
    assert isinstance(both, Replicas)
    for engine in both.engines:
        engine.tokenizer.end_ids = frozenset()
        slots = engine._scheduler.slots  # slowly: no reply ends before all are asked for
        monkeypatch.setattr(slots, "decode", lambda d=slots.decode: (time.sleep(0.01), d())[1])
    yield both
    both.close()


def test_requests_are_spread_over_the_copies_and_the_numbers_are_those_of_all(
    replicas: Replicas, wait_until: Callable[..., None]
) -> None:
    async def together() -> list[Any]:
        decoding = Decoding(temperature=0.8, seed=3, max_new_tokens=20)
        asked = [replicas.complete([20 + n, 21, 22], decoding, f"user {n}") for n in range(8)]
        return await asyncio.gather(*asked)

    assert all(len(reply.ids) == 20 for reply in asyncio.run(together()))
    one, other = (engine.counts for engine in replicas.engines)
    assert one.accepted == other.accepted == 4
    wait_until(lambda: replicas.counts.finished == {"length": 8})
    assert replicas.counts.accepted == 8
    assert replicas.counts.generated_tokens == 160
    assert sum(replicas.counts.first_token.counts) == 8
    assert replicas.bytes == 2 * replicas.engines[0].bytes and replicas.running == 0
    assert list(replicas.loads.values()) == [0, 0]


def test_a_seed_gives_the_same_reply_on_each_copy(replicas: Replicas) -> None:
    decoding = Decoding(temperature=1, seed=5, max_new_tokens=30)
    first, second = (engine.generate([20, 21, 22], decoding) for engine in replicas.engines)
    assert first.ids == second.ids


def test_the_next_turn_of_a_chat_goes_where_its_beginning_was_read(
    replicas: Replicas, wait_until: Callable[..., None]
) -> None:
    talk: list[Message] = [{"role": "user", "content": "Where is the cat? " * 3}]
    prompt = replicas.render(talk)
    for home in replicas.engines:  # wherever the first turn was
        other = next(engine for engine in replicas.engines if engine is not home)
        for engine in replicas.engines:
            engine._scheduler.slots.prefixes.clear()
        home.generate(prompt, Decoding(temperature=0, max_new_tokens=4))
        wait_until(lambda: replicas.running == 0)
        assert replicas.placed([*prompt, 30, 31]) is home
        assert home.known([*prompt, 30, 31]) == len(prompt) > 0 == other.known([*prompt, 30])


class Copy:
    """A copy that has so many requests."""

    def __init__(self, load: int, known: int = 0, reason: str | None = None) -> None:
        self.load, self.reason, self._known = load, reason, known

    def known(self, prompt_ids: Any) -> int:
        return self._known

    def why_not_ready(self) -> str | None:
        return self.reason


@pytest.mark.parametrize(
    ("copies", "place"),
    [
        ([Copy(2), Copy(1)], 1),
        ([Copy(NEAR, known=20), Copy(0)], 0),
        ([Copy(NEAR + 1, known=20), Copy(0)], 1),
        ([Copy(0, reason="full"), Copy(9)], 1),
        ([Copy(3, reason="full"), Copy(2, reason="being made ready")], 1),
    ],
)
def test_the_least_busy_copy_that_can_answer_gets_a_request_or_one_near_it_that_knows_it(
    copies: list[Any], place: int
) -> None:
    together = Replicas(copies)
    together.loads |= {copy: copy.load for copy in copies}
    assert together.placed([1, 2, 3]) is copies[place]
    assert (together.why_not_ready() is None) == any(not copy.reason for copy in copies)


def test_several_replies_to_one_prompt_are_spread_over_the_copies(replicas: Replicas) -> None:
    async def together() -> int:
        streams = [replicas.stream([20, 21, 22], ENDLESS) for _ in range(8)]  # as the API's n=8
        return len([delta async for _, delta in merged(streams) if delta.finish])

    assert asyncio.run(together()) == 8
    assert [engine.counts.accepted for engine in replicas.engines] == [4, 4]


def test_leaving_frees_the_slot_on_whichever_copy(
    replicas: Replicas, wait_until: Callable[..., None]
) -> None:
    async def leave() -> None:
        streams = [replicas.stream([20 + n, 21], ENDLESS) for n in range(4)]
        for stream in streams:
            await anext(stream)
        assert replicas.running == 4
        for stream in streams:
            await stream.aclose()

    asyncio.run(leave())
    wait_until(lambda: replicas.counts.finished["cancelled"] == 4)
    assert replicas.running == 0
    assert list(replicas.loads.values()) == [0, 0]


def test_a_copy_that_cannot_be_opened_leaves_no_thread_of_another(
    endless_checkpoint: Callable[[str], Checkpoint], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    endless_checkpoint("gru").save(tmp_path / "once")
    opened: list[Engine] = []
    load = Checkpoint.load

    def load_once(*args: Any, **settings: Any) -> Checkpoint:
        if settings["device"] == "cuda:1":
            raise torch.OutOfMemoryError("the second one is full")
        return load(*args, **settings | {"device": "cpu"})

    start = Engine.__init__

    def note(self: Engine, *args: Any, **settings: Any) -> None:
        start(self, *args, **settings)
        opened.append(self)

    monkeypatch.setattr(Checkpoint, "load", load_once)
    monkeypatch.setattr(Engine, "__init__", note)
    with pytest.raises(Exception, match="not enough memory to load the model 'once'"):
        open_backend(Source("once", str(tmp_path / "once")), Opening(devices=("cpu", "cuda:1")))
    assert len(opened) == 1 and not opened[0]._loop._thread.is_alive()


def test_each_gpu_has_a_copy_in_bf16_and_memory_is_foreseen_for_all(
    endless_checkpoint: Callable[[str], Checkpoint], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpus = devices.serving_devices()
    assert gpus == ("cuda:0", "cuda:1")
    assert devices.precision("auto", gpus) == "bfloat16"
    assert devices.precision("auto", ("cpu",)) == "float32" == devices.precision("float32", gpus)
    endless_checkpoint("transformer").save(tmp_path / "one")
    source = Source("one", str(tmp_path / "one"))
    alone = foreseen_bytes(source, Opening(weights="bfloat16", devices=gpus[:1]))
    assert foreseen_bytes(source, Opening(weights="bfloat16", devices=gpus)) == 2 * alone
    assert alone < foreseen_bytes(source, Opening(weights="bfloat16"))


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_what_a_gpu_will_hold_is_what_the_same_step_holds(
    endless_checkpoint: Callable[[str], Checkpoint], tmp_path: Path, weights: str
) -> None:
    endless_checkpoint("transformer").save(tmp_path / "one")
    foreseen = foreseen_bytes(
        Source("one", str(tmp_path / "one")), Opening(weights=weights, devices=("cuda:0",))
    )
    dtype = torch.bfloat16 if weights == "bfloat16" else torch.float32
    checkpoint = Checkpoint.load(tmp_path / "one", dtype=dtype)
    step = TorchStep(checkpoint.model, weights, fixed=True)  # the step of a GPU, on this machine
    with Engine(checkpoint, slots=Opening().slots, step=step) as engine:
        assert engine.bytes <= foreseen < 1.1 * engine.bytes


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_two_gpus_answer_side_by_side(
    endless_checkpoint: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    endless_checkpoint("transformer").save(tmp_path / "both")
    opening = Opening(slots=4, weights="bfloat16", devices=devices.serving_devices())
    both: Any = open_backend(Source("both", str(tmp_path / "both")), opening)

    async def together() -> list[Any]:
        decoding = Decoding(temperature=0, max_new_tokens=30)
        asked = [both.complete([20 + n, 21, 22], decoding) for n in range(4 * len(both.engines))]
        return await asyncio.gather(*asked)

    try:
        assert len(asyncio.run(together())) == 4 * len(both.engines)
        homes = {str(engine.checkpoint.model.device) for engine in both.engines}
        assert homes == set(devices.serving_devices())
        assert all(engine.counts.accepted for engine in both.engines)
        assert all(engine.step_name.endswith("CUDA graphs") for engine in both.engines)
    finally:
        both.close()
