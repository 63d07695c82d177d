"""An engine that fails: everybody is told, it is started again, and not for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lmapps.decoding import Decoding
from lmapps.engine import entry
from lmapps.engine.backends.source import Source
from lmapps.engine.engine import Engine
from lmapps.engine.loop import MOST_FAILURES, Loop
from lmapps.engine.models import Models
from lmapps.engine.request import Delta
from lmapps.errors import CheckpointError, EngineFailed

ASK = Decoding(max_new_tokens=4)
LONG = Decoding(max_new_tokens=100_000)


@pytest.fixture
def engine(endless_checkpoint: Callable[[str], Any]) -> Any:
    with Engine(endless_checkpoint("gru"), slots=1) as engine:
        yield engine


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in 30 seconds"
        time.sleep(0.001)


def breaks(engine: Engine, error: BaseException) -> None:
    """From the next decoding step on."""

    def fail() -> torch.Tensor:
        raise error

    engine._scheduler.slots.decode = fail  # type: ignore[method-assign]


def told(engine: Engine, decoding: Decoding = LONG) -> list[Delta]:
    """What somebody hears who asked; the last delta comes when it comes."""
    heard: list[Delta] = []
    engine.submit([1, 2, 3], decoding, heard.append)
    return heard


def test_all_who_run_and_wait_are_told_when_a_step_fails_and_the_next_one_goes_on(
    engine: Engine,
) -> None:
    heard = [told(engine) for _ in range(3)]
    wait_until(lambda: engine.running == 1 and engine.waiting == 2)
    decode = engine._scheduler.slots.decode
    breaks(engine, ValueError("out of paper"))
    wait_until(lambda: all(one and one[-1].finish for one in heard))
    for one in heard:
        assert isinstance(one[-1].error, EngineFailed) and one[-1].error.status == 503
        assert "out of paper" in str(one[-1].error)
    engine._scheduler.slots.decode = decode  # type: ignore[method-assign]
    assert engine.broken is None and len(engine.generate([1, 2, 3], ASK).ids) == 4


def test_steps_that_fail_one_after_another_end_the_engine_and_nobody_is_left_waiting(
    engine: Engine,
) -> None:
    breaks(engine, ValueError("the device is gone"))
    for _ in range(MOST_FAILURES):
        assert engine.broken is None
        with pytest.raises(EngineFailed, match="the device is gone"):
            engine.generate([1, 2, 3], ASK)
    wait_until(lambda: engine.broken)
    with pytest.raises(EngineFailed, match="it is started again, try again in a moment"):
        engine.generate([1, 2, 3], ASK)
    assert "the device is gone" in str(engine.why_not_ready())


def test_replies_that_come_to_their_end_in_between_keep_it_going(engine: Engine) -> None:
    decode = engine._scheduler.slots.decode
    for _ in range(2 * MOST_FAILURES):
        breaks(engine, ValueError("now and then"))
        with pytest.raises(EngineFailed):
            engine.generate([1, 2, 3], ASK)
        engine._scheduler.slots.decode = decode  # type: ignore[method-assign]
        engine.generate([1, 2, 3], ASK)
    assert engine.broken is None


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError("heap")])
def test_whatever_ends_the_thread_tells_those_who_wait(
    engine: Engine, error: BaseException
) -> None:
    heard = [told(engine) for _ in range(3)]
    wait_until(lambda: engine.running == 1 and engine.waiting == 2)
    engine._scheduler.step = lambda: (_ for _ in ()).throw(error)  # type: ignore[method-assign]
    wait_until(lambda: all(one and one[-1].finish for one in heard))
    assert all(isinstance(one[-1].error, EngineFailed) for one in heard)
    assert type(error).__name__ in str(heard[0][-1].error)


class Opened:
    """Opens engines, and remembers them; `fails` says how one that cannot be opened ends."""

    def __init__(self, checkpoint: Any) -> None:
        self.checkpoint, self.made = checkpoint, list[Engine]()
        self.fails: Exception | None = None

    def __call__(self, source: Source) -> Engine:
        if self.fails:
            raise self.fails
        self.made.append(Engine(self.checkpoint, name=source.name))
        return self.made[-1]


@pytest.fixture
def opened(endless_checkpoint: Callable[[str], Any]) -> Opened:
    return Opened(endless_checkpoint("gru"))


def dead(models: Models) -> Engine:
    """The default model's engine, ended by itself."""
    engine: Any = models.load()
    engine._scheduler.step = lambda: (_ for _ in ()).throw(SystemExit(1))
    told(engine)
    wait_until(lambda: engine.broken)
    return engine


def state(models: Models) -> tuple[str, bool]:
    one = models.describe()[0]
    return one.state, one.is_failed


def test_an_engine_that_has_ended_is_started_again_with_another_thread(opened: Opened) -> None:
    models = Models([Source("it", "")], opened)
    before = dead(models)
    assert state(models) == ("loaded", True)
    assert "SystemExit" in models.describe()[0].trouble
    models.mend()
    wait_until(lambda: state(models) == ("loaded", False))
    again = models.load()
    assert again is opened.made[1] and again is not before
    assert again.generate([1, 2, 3], ASK).tokens == 4  # type: ignore[attr-defined]
    assert models.hopeless is None
    models.close()


def test_a_thread_that_went_without_a_word_is_found_and_its_requests_are_told(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models([Source("it", "")], opened)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_run", lambda loop: loop._take_arrivals() and None)
        engine: Any = models.load()
    heard = told(engine)
    wait_until(lambda: not engine._loop._thread.is_alive())

    async def streamed() -> None:
        stream = engine.stream([1, 2], ASK)
        with pytest.raises(EngineFailed):
            await anext(stream)

    asyncio.run(streamed())
    assert engine.broken == "its thread is gone" and not heard
    models.mend()
    assert isinstance(heard[-1].error, EngineFailed) and "thread is gone" in str(heard[-1].error)
    wait_until(lambda: state(models) == ("loaded", False))
    models.close()


def test_an_engine_that_ends_again_and_again_is_given_up_until_some_minutes_later(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models([Source("it", "")], opened)
    for _ in range(entry.MOST_DEATHS):
        assert models.hopeless is None
        dead(models)
        models.mend()
    assert len(opened.made) == entry.MOST_DEATHS
    assert "'it' failed 3 times within 600 seconds" in str(models.hopeless)
    assert models.why_not_ready() == models.hopeless
    with pytest.raises(EngineFailed, match="the server's log says more"):
        models.load()
    models.mend()
    assert len(opened.made) == entry.MOST_DEATHS, "it is not tried again"
    monkeypatch.setattr(entry, "DEATH_SECONDS", 0.0)
    models.mend()
    wait_until(lambda: state(models) == ("loaded", False))
    models.close()


def test_one_that_does_not_come_back_is_tried_a_few_times_and_given_up(opened: Opened) -> None:
    models = Models([Source("it", "")], opened)
    dead(models)
    opened.fails = CheckpointError("it is not there any more")
    for _ in range(entry.MOST_DEATHS):
        models.mend()
        wait_until(lambda: state(models)[0] != "loading")
    assert "it is not there any more" in str(models.hopeless)


def test_a_model_that_cannot_be_loaded_when_somebody_asks_ends_no_server(opened: Opened) -> None:
    opened.fails = CheckpointError("broken")
    models = Models([Source("it", "")], opened)
    for _ in range(2 * entry.MOST_DEATHS):
        with pytest.raises(CheckpointError):
            models.load()
        models.mend()
    assert models.hopeless is None and state(models) == ("not loaded", True)
    opened.fails = None
    models.load()
    assert state(models) == ("loaded", False) and models.describe()[0].trouble == ""
    models.close()


def test_memory_that_ends_is_told_for_a_minute_and_what_was_kept_is_given_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models.of(engine)
    engine.generate(list(range(1, 30)), ASK)
    assert engine.prefix_bytes > 0
    prefill = engine._scheduler.slots.prefill
    no_memory = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(engine._scheduler.slots, "prefill", lambda *_: raises(no_memory))
    with pytest.raises(Exception, match="not enough memory for a prompt of 3 tokens"):
        engine.generate([5, 6, 7], ASK)
    (one,) = models.describe()
    assert "not enough memory" in one.trouble and not one.is_failed
    monkeypatch.setattr(engine._scheduler.slots, "prefill", prefill)
    monkeypatch.setattr(engine._scheduler.slots, "keep_prompt", lambda *_: raises(no_memory))
    with pytest.raises(EngineFailed, match="CUDA out of memory"):
        engine.generate([5, 6, 7], ASK)
    assert engine.prefix_bytes == 0
    monkeypatch.setattr(entry, "TROUBLE_SECONDS", 0.0)
    assert models.describe()[0].trouble == ""


def raises(error: Exception) -> None:
    raise error
