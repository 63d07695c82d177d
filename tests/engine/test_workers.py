"""A plugin's code that hangs stops neither the event loop nor another plugin."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmapps import Decoding, plugin
from lmapps.engine import workers
from lmapps.engine.application import Application
from lmapps.engine.engine import Engine
from lmapps.engine.workers import THREADS, workers_of
from lmapps.errors import Busy, PluginError
from lmapps.model.checkpoint import Checkpoint

SHORT = Decoding(max_new_tokens=2)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "home"))


@pytest.fixture
def engine(tiny_checkpoint: Callable[[str], Checkpoint]) -> Iterator[Engine]:
    with Engine(tiny_checkpoint("gru")) as engine:
        yield engine


@plugin(decoding=SHORT)
def quick(text: str) -> str:
    return text


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"plugin {name}"]


def test_a_prompt_function_that_hangs_is_given_up_and_does_not_go_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr(workers, "LIMIT", 0.3)

    @plugin(decoding=SHORT)
    def hangs(text: str) -> str:
        while True:
            pass

    with pytest.raises(PluginError, match=r"'hangs' has not asked anything within 0\.3 seconds"):
        asyncio.run(Application(hangs, engine).reply({"text": "x"}))
    wait_until(lambda: not threads_of("hangs"))


def test_a_slow_finish_leaves_the_event_loop_free(engine: Engine) -> None:
    begun, ended, seen = threading.Event(), threading.Event(), list[bool]()

    def finish(reply: str) -> str:
        begun.set()
        seen.append(ended.wait(5))
        return reply

    @plugin(decoding=SHORT, finish=finish)
    def slow(text: str) -> Any:
        yield [text]
        yield text

    async def both() -> None:
        asked = asyncio.create_task(Application(slow, engine).reply({"text": "x"}))
        await asyncio.to_thread(begun.wait, 20)
        await Application(quick, engine).reply({"text": "x"})
        ended.set()
        await asked

    asyncio.run(both())
    assert seen == [True, True]


def test_when_all_threads_of_a_plugin_are_stuck_only_that_plugin_is_busy(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr(workers, "LIMIT", 0.2)
    released = threading.Event()

    @plugin(decoding=SHORT)
    def stuck(text: str) -> str:
        released.wait()  # in C: what is raised in the thread arrives only when it comes back
        return text

    async def ask_more_than_there_are_threads() -> list[Any]:
        asked = [Application(stuck, engine).reply({"text": "x"}) for _ in range(THREADS + 3)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        await Application(quick, engine).reply({"text": "x"})
        return answers

    try:
        answers = asyncio.run(ask_more_than_there_are_threads())
        assert Counter(map(type, answers)) == {PluginError: THREADS, Busy: 3}
        refused = [str(answer) for answer in answers if isinstance(answer, Busy)]
        assert all("all 4 threads of plugin 'stuck' are stuck" in reason for reason in refused)
    finally:
        released.set()
    wait_until(lambda: not threads_of("stuck"))
    assert asyncio.run(Application(stuck, engine).reply({"text": "x"})).finish, "free again"


def test_calls_that_find_no_thread_wait_for_one(wait_until: Callable[..., None]) -> None:
    released, begun = threading.Event(), list[int]()

    async def run() -> list[int]:
        def work(number: int) -> int:
            begun.append(number)
            released.wait(20)
            return number

        mine = workers_of(quick)
        calls = [mine.run(lambda n=n: work(n), "x") for n in range(THREADS * 3)]  # type: ignore
        asked = asyncio.gather(*calls)
        await asyncio.to_thread(wait_until, lambda: len(begun) == THREADS)
        released.set()
        return await asked

    assert asyncio.run(run()) == list(range(THREADS * 3))
    wait_until(lambda: not threads_of("quick"))


def test_who_leaves_takes_nobody_along(wait_until: Callable[..., None]) -> None:
    released = threading.Event()

    async def run() -> int:
        mine = workers_of(quick)
        leaving = [asyncio.create_task(mine.run(released.wait, "x")) for _ in range(THREADS + 2)]
        await asyncio.to_thread(wait_until, lambda: len(threads_of("quick")) == THREADS)
        for task in leaving:
            task.cancel()
        ended = await asyncio.gather(*leaving, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)
        released.set()
        return await mine.run(lambda: 7, "x")

    assert asyncio.run(run()) == 7


def test_a_thread_is_used_again_and_ends_when_nobody_needs_it(
    monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr(workers, "IDLE", 0.2)

    @plugin
    def mine_alone(text: str) -> str:
        return text

    mine = workers_of(mine_alone)

    async def two() -> list[int]:
        return [await mine.run(threading.get_ident, "x") for _ in range(2)]

    first, second = asyncio.run(two())
    assert first == second
    wait_until(lambda: not threads_of("mine_alone"))
    assert asyncio.run(mine.run(lambda: 7, "x")) == 7, "another one begins"


def test_a_call_that_waits_has_all_its_time_once_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LIMIT", 1.0)
    monkeypatch.setattr(workers, "THREADS", 1)

    @plugin
    def patient(text: str) -> str:
        return text

    async def three() -> list[None]:
        mine = workers_of(patient)
        calls = [mine.run(lambda: time.sleep(0.6), "x") for _ in range(3)]  # 1.8 s in all
        return await asyncio.gather(*calls)

    assert asyncio.run(three()) == [None] * 3


def test_a_plugin_that_ends_the_process_ends_only_its_own_call() -> None:
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(PluginError, match="plugin 'quick' ended with SystemExit"):
        asyncio.run(workers_of(quick).run(leave, "x"))
    assert asyncio.run(workers_of(quick).run(lambda: 7, "x")) == 7
