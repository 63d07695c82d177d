"""Several models by name: loaded when asked for, within a budget, and never freed in use."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from lmapps.engine.backends.foreseen import foreseen_bytes
from lmapps.engine.backends.source import (
    Opening,
    Source,
    found_sources,
    open_backend,
    source_of,
)
from lmapps.engine.counts import Counts
from lmapps.engine.engine import Engine
from lmapps.engine.models import Models
from lmapps.errors import (
    Busy,
    CheckpointError,
    ModelInUse,
    ModelTooLarge,
    NoSuchModel,
    SettingsError,
    ShuttingDown,
)
from lmapps.model.checkpoint import Checkpoint


class Fake:
    """A backend that is only there or closed; each takes 10 bytes."""

    about, bytes, context, broken = None, 10, 100, None

    def __init__(self, name: str) -> None:
        self.name, self.closed, self.counts = name, False, Counts()

    def close(self) -> None:
        self.closed = True

    def why_not_ready(self) -> str | None:
        return None


class Opened:
    """Opens fakes, and remembers which; `gate` holds a loading up."""

    def __init__(self) -> None:
        self.made: list[Fake] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, source: Source) -> Any:
        self.gate.wait(20)
        if source.place == "broken":
            raise CheckpointError("broken: it is not a checkpoint")
        self.made.append(Fake(source.name))
        return self.made[-1]

    @property
    def names(self) -> list[str]:
        return [fake.name for fake in self.made]


@pytest.fixture
def opened() -> Opened:
    return Opened()


def models_of(opened: Opened, budget: float = 20, **more: Any) -> Models:
    given = [Source(name, name) for name in ("a", "b", "c")]
    return Models(given, opened, lambda _: 10, budget, **more)


def test_a_model_is_loaded_when_it_is_asked_for_and_once(opened: Opened) -> None:
    models = models_of(opened)
    assert models.names == ["a", "b", "c"] and models.default == "a" and not opened.made

    async def ask() -> None:
        async with models.use("b") as first, models.use("b") as second, models.use() as default:
            assert first is second and first.name == "b" and default.name == "a"

    asyncio.run(ask())
    assert sorted(opened.names) == ["a", "b"]
    assert {one.name: one.state for one in models.describe()} == {
        "a": "loaded", "b": "loaded", "c": "not loaded",
    }  # fmt: skip
    with pytest.raises(NoSuchModel, match="there is no model 'd' here; served: 'a', 'b', 'c'"):
        models.load("d")


def test_many_who_ask_for_a_model_that_is_being_loaded_wait_for_the_same_loading(
    opened: Opened,
) -> None:
    models = models_of(opened)
    opened.gate.clear()

    async def ask() -> str:
        async with models.use("b") as backend:
            return backend.name

    async def all_ask() -> list[str]:
        asked = [asyncio.create_task(ask()) for _ in range(5)]
        leaves = asyncio.create_task(ask())
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the loop goes on meanwhile
        assert [one.state for one in models.describe()] == ["not loaded", "loading", "not loaded"]
        assert models.describe()[1].users == 6
        leaves.cancel()
        opened.gate.set()
        return list(await asyncio.gather(*asked))

    assert asyncio.run(all_ask()) == ["b"] * 5
    assert opened.names == ["b"] and models.describe()[1].users == 0


def test_the_idle_model_that_was_not_used_for_longest_makes_room(opened: Opened) -> None:
    models = models_of(opened)
    a, b = models.load("a"), models.load("b")
    models.load("a")
    models.load("c")
    assert b.closed and not a.closed  # type: ignore[attr-defined]
    assert models.load("b") is not b, "it is loaded again when it is asked for"
    assert a.closed  # type: ignore[attr-defined]


def test_a_model_in_use_is_never_freed_and_who_needs_its_memory_is_told(opened: Opened) -> None:
    models = models_of(opened)

    async def ask() -> None:
        async with models.use("a") as a:
            async with models.use("b"):
                with pytest.raises(Busy, match="no memory for the model 'c' now, 'a', 'b' being"):
                    async with models.use("c"):
                        pass
                with pytest.raises(ModelInUse):
                    models.free("a")
            async with models.use("c") as c:
                assert c.name == "c" and not a.closed  # type: ignore[attr-defined]

    asyncio.run(ask())
    assert [one.users for one in models.describe()] == [0, 0, 0]
    models.free("a")
    assert models.describe()[0].state == "not loaded" and models.describe()[0].bytes == 0


def test_what_fits_not_even_alone_is_refused_with_both_sizes(opened: Opened) -> None:
    models = models_of(opened, budget=9)
    with pytest.raises(ModelTooLarge, match=r"takes about 0\.0 GiB.*--memory"):
        models.load("a")
    assert not opened.made and models.describe()[0].users == 0


def test_a_loading_that_fails_is_told_to_everybody_and_tried_again(opened: Opened) -> None:
    models = models_of(opened)
    models.add(Source("bad", "broken"))
    for _ in range(2):
        with pytest.raises(CheckpointError, match="broken"):
            models.load("bad")
    assert models.load("a").name == "a", "what it would have taken is free again"
    assert models.load("b").name == "b"


def test_where_no_thread_can_be_had_a_loading_is_refused_and_tried_again(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = models_of(opened)
    models.load("a")
    models.load("b")

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched, pytest.raises(Busy, match="'c' cannot be loaded now"):
        patched.setattr(threading.Thread, "start", refuse)
        models.load("c")
    states = {one.name: (one.state, one.users) for one in models.describe()}
    assert states == {"a": ("loaded", 0), "b": ("loaded", 0), "c": ("not loaded", 0)}
    assert models.load("c").name == "c"


def test_nothing_is_loaded_while_what_has_left_still_has_its_memory(
    opened: Opened, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = models_of(opened)
    models.load("a")
    models.load("b")
    may_end, ending = threading.Event(), threading.Event()

    def end_slowly() -> None:
        ending.set()
        assert may_end.wait(20)
        opened.made[0].closed = True

    monkeypatch.setattr(opened.made[0], "close", end_slowly)
    with ThreadPoolExecutor(2) as threads:
        freeing = threads.submit(models.free, "a")
        assert ending.wait(20)
        loading = threads.submit(models.load, "c")
        wait_until(lambda: models.describe()[2].state == "loading")
        assert opened.names == ["a", "b"], "three in memory, where there is room for two"
        may_end.set()
        assert loading.result(20).name == "c" and freeing.result(20) is None
    assert opened.made[0].closed and opened.names == ["a", "b", "c"]


def test_a_name_stands_for_one_place(opened: Opened) -> None:
    models = models_of(opened)
    models.add(Source("d", "d"))
    models.add(Source("d", "d"))
    with pytest.raises(SettingsError, match="there is a model 'd' already"):
        models.add(Source("d", "elsewhere"))
    with pytest.raises(SettingsError, match="two models are called 'a'"):
        Models([Source("a", "x"), Source("a", "y")], opened)


def test_a_model_that_takes_more_than_was_foreseen_makes_room_or_is_refused(
    opened: Opened,
) -> None:
    models = models_of(opened)
    a, b = models.load("a"), models.load("b")
    models.free("b")
    models._open = lambda source: Larger(source.name)  # type: ignore[assignment, return-value]
    assert models.load("c").bytes == 15 and a.closed  # type: ignore[attr-defined]
    models.budget = 14
    models.free("c")
    with pytest.raises(ModelTooLarge, match="'b' takes about"):
        models.load("b")
    assert [one.state for one in models.describe()] == ["not loaded"] * 3
    assert Larger.last.closed and b.closed  # type: ignore[attr-defined]


class Larger(Fake):
    """It takes 15 bytes, not 10."""

    bytes = 15
    last: Larger

    def __init__(self, name: str) -> None:
        super().__init__(name)
        Larger.last = self


def test_closing_ends_every_model_and_a_loading_that_comes_late(opened: Opened) -> None:
    models = models_of(opened)
    a = models.load("a")
    opened.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(models.load, "b")
        while models.describe()[1].state != "loading":
            pass
        models.close()
        opened.gate.set()
        assert isinstance(asking.exception(20), ShuttingDown)
    assert a.closed and opened.made[-1].closed  # type: ignore[attr-defined]
    with pytest.raises(ShuttingDown):
        models.load("a")
    assert models.why_not_ready() == "the server is shutting down: try again when it is back"


def test_checkpoints_in_the_folders_are_offered_as_they_come(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_checkpoint: Callable[[str], Checkpoint],
) -> None:
    monkeypatch.setattr(
        "lmapps.engine.backends.source.checkpoint_folders", lambda: [tmp_path, tmp_path / "none"]
    )
    tiny_checkpoint("gru").save(tmp_path / "one")
    (tmp_path / "empty").mkdir()
    models = Models([source_of(str(tmp_path / "one"))], open_backend, find=found_sources)
    assert models.names == ["one"]
    tiny_checkpoint("transformer").save(tmp_path / "two")
    assert models.names == ["one", "two"] and models.describe()[1].state == "not loaded"
    two = models.load("two")
    assert isinstance(two, Engine) and two.name == "two" and two.folder == tmp_path / "two"
    foreseen = foreseen_bytes(Source("two", str(tmp_path / "two")), Opening())
    copied = two.checkpoint.config.parameters * 4
    assert two.bytes > 2 * copied + two._scheduler.slots.prefixes.most_bytes
    assert two.bytes <= foreseen < 1.1 * two.bytes
    models.close()


def test_a_freed_model_is_gone_from_memory(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    tiny_checkpoint("gru").save(tmp_path / "one")
    models = Models([source_of(str(tmp_path / "one"))], open_backend)
    weights = weakref.ref(models.load().checkpoint.model)  # type: ignore[attr-defined]
    assert weights() is not None
    models.free("one")
    assert weights() is None


@pytest.mark.parametrize(
    ("word", "name", "place"),
    [
        ("big=http://host:8000/v1", "big", "http://host:8000/v1"),
        ("http://host:8000/v1", "host:8000", "http://host:8000/v1"),
        ("https://api.openai.com/v1#gpt-5", "gpt-5", "https://api.openai.com/v1#gpt-5"),
        ("hf:HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M", "hf:HuggingFaceTB/SmolLM2-135M"),
        ("mine=/some/folder", "mine", "/some/folder"),
        ("/some/folder", "folder", "/some/folder"),
    ],
)
def test_what_a_person_types_is_a_place_with_or_without_a_name(
    word: str, name: str, place: str
) -> None:
    assert source_of(word) == Source(name, place)


def test_a_password_in_a_url_and_a_hub_model_without_owner_are_refused() -> None:
    with pytest.raises(SettingsError, match="set the environment variable LMAPPS_KEY_NAME"):
        source_of("https://me:secret@host/v1")
    for wrong in ("x=http://host:port/v1", "x=http://[::1/v1", "http://"):
        with pytest.raises(SettingsError, match="is no URL"):
            source_of(wrong)
    with pytest.raises(SettingsError, match="is written hf:OWNER/NAME, got 'hf:gpt2'"):
        source_of("hf:gpt2")
    assert Source("my-gpt", "https://x/v1").key_name == "LMAPPS_KEY_MY_GPT"


def test_where_memory_ends_while_a_model_is_loaded_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    tiny_checkpoint("gru").save(tmp_path / "one")
    models = Models([source_of(str(tmp_path / "one"))], open_backend)

    def no_memory(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "load", no_memory)
        with pytest.raises(ModelTooLarge, match="not enough memory to load the model 'one' now"):
            models.load()
    assert models.load().name == "one", "it is tried again"
    models.close()
