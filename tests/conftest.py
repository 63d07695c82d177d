"""Tiny models with real tokenizers, made once for the whole session."""

from __future__ import annotations

import gc
import importlib
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

import pytest

from lmapps.discovery import Found, discover
from lmapps.model.checkpoint import Checkpoint

TEXT = """The cat sat on the mat. The dog ran after the cat, and the cat ran up a tree.
"Come down," said the girl. "No," said the cat, "not before the dog has gone home."
今天天气很好，我们去公园。def add(a, b):
    return a + b
"""


def pytest_collection_finish() -> None:
    """What was imported stays: of each test that frees a model, looking through it took most."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _home_of_the_tests() -> Iterator[None]:
    """What a test writes where it set no folder of its own never reaches the person's."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMAPPS_HOME", folder)
        yield


def missing(told: str) -> NoReturn:
    """Skip what cannot run on this machine; in CI, where it should, fail."""
    if os.environ.get("CI"):
        pytest.fail(told, pytrace=False)
    pytest.skip(told, allow_module_level=True)


def brought(module: str) -> Any:
    """A module that the test extra brings."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing(f"{error.name} is not installed: `pip install -e '.[test]'` for these tests")


def llama_cpp() -> Any:
    """The module with llama.cpp; the test extra brings it to Linux on x86-64 alone."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return pytest.importorskip("xllamacpp")
    return brought("xllamacpp")


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in 30 seconds"
        time.sleep(0.001)


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """`wait_until(lambda: engine.running == 0)`: what the engine's thread does, it does soon."""
    return _wait_until


@cache
def _tiny_checkpoint(body: str) -> Checkpoint:
    import torch

    from lmapps.model.config import ModelConfig
    from lmapps.model.language_model import LanguageModel
    from lmapps.text.template import Template
    from lmapps.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.train([TEXT] * 20, "bpe", 384)
    torch.manual_seed(0)
    config = ModelConfig.from_size(
        "tiny",
        body=body,  # type: ignore[arg-type]
        vocab_size=tokenizer.vocab_size,
        context=128,
    )
    # All tests share it, and the first to ask may be in inference mode: weights that are made
    # there can't be trained.
    with torch.inference_mode(False):
        model = LanguageModel(config.changed(num_layers=2)).eval()
    for name, parameter in model.named_parameters():
        # A plain RNN whose recurrent matrix has a spectral radius above 1 is chaotic: rounding in
        # the last bit grows tenfold every few steps. 0.04 x sqrt(400) = 0.8 keeps it calm.
        is_recurrence = body == "rnn" and "weight_hh" in name
        torch.nn.init.normal_(parameter, std=0.04 if is_recurrence else 0.15)
    return Checkpoint(model, tokenizer, Template(tokenizer))


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Callable[[str], Checkpoint]:
    """`tiny_checkpoint("gru")` -> a random model of that body with a small BPE tokenizer."""
    return _tiny_checkpoint


def _endless(checkpoint: Checkpoint) -> Checkpoint:
    from lmapps.text.tokenizer import Tokenizer

    tokenizer = Tokenizer(checkpoint.tokenizer.raw)
    tokenizer.end_ids = frozenset()
    return Checkpoint(checkpoint.model, tokenizer, checkpoint.template)


@pytest.fixture(scope="session")
def endless_checkpoint() -> Callable[[str], Checkpoint]:
    """The same models, but a reply never ends by itself: lengths are what was asked for."""
    return lambda body: _endless(_tiny_checkpoint(body))


class Served:
    """A real server on a free port, in a thread of this process."""

    def __init__(self, engine: Any, store: Any, seconds_per_step: float) -> None:
        self.url, self.engine, self.store, self.app = "", engine, store, None
        self.seconds_per_step = seconds_per_step
        """How long a decoding step takes at least: a test may make it slower for a while."""
        self._decode = engine._scheduler.slots.decode
        engine._scheduler.slots.decode = self._slow_decode

    def _slow_decode(self) -> Any:
        time.sleep(self.seconds_per_step)
        return self._decode()

    def wait_until_idle(self) -> None:
        """Until no request holds a slot or waits for one."""
        deadline = time.monotonic() + 20
        while self.engine.running or self.engine.waiting:
            assert time.monotonic() < deadline, "a slot is still taken after 20 seconds"
            time.sleep(0.005)


class Leaving:
    """Somebody leaves: how soon the engine frees the slot of the request that is under way.

    seconds  from now until the request is cancelled
    passes   of the model, from then on until its slot is free
    steps    of the model, from now until its slot is free
    """

    def __init__(self, served: Served, patch: pytest.MonkeyPatch) -> None:
        from lmapps.engine.request import Request

        self._served, self._began = served, time.monotonic()
        self.seconds = self.passes = self.steps = None
        self._passes, self._first = 0, served.engine.passes
        cancel, end = Request.cancel, Request.end

        def cancelled(request: Any) -> None:
            if request.finish is None and self.seconds is None:
                self._passes = served.engine.passes
                self.seconds = time.monotonic() - self._began
            cancel(request)

        def ended(request: Any, finish: Any, error: Any = None) -> None:
            if finish == "cancelled" and self.passes is None:
                self.passes = served.engine.passes - self._passes
                self.steps = served.engine.passes - self._first
            end(request, finish, error)

        patch.setattr(Request, "cancel", cancelled)
        patch.setattr(Request, "end", ended)

    def frees_its_slot(self) -> None:
        """It is cancelled at once, and its slot is free after the step that was under way."""
        self._served.wait_until_idle()
        _wait_until(lambda: self.passes is not None)  # it is told so once its slot is free
        assert self.seconds is not None and self.passes is not None
        assert self.seconds < 1, "a browser on a busy machine has told it by then"
        assert self.passes <= 1


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> Callable[[Served], Leaving]:
    """`left = leaving(served)` right before somebody leaves, `left.frees_its_slot()` after it."""
    return lambda served: Leaving(served, monkeypatch)


def _several(engine: Any, find: Any) -> Any:
    """The engine's model, and those that `find` finds."""
    from lmapps.engine.backends.source import Opening, Source, open_backend
    from lmapps.engine.models import Models

    def open(source: Source) -> Any:
        return engine if source.name == engine.name else open_backend(source, Opening(slots=4))

    return Models([Source(engine.name, "")], open, find=find)


@contextmanager
def _served(
    found: Found,
    seconds_per_step: float,
    database: str = "",
    port: int = 0,
    prepare: Callable[[Any], None] = lambda store: None,
    find: Any = None,
    slots: int = 16,
    **settings: Any,
) -> Iterator[Served]:
    """`prepare` gets the store before the server is made of it, `find` finds more models, and
    `settings` are the server's."""
    from lmapps.engine.engine import Engine
    from lmapps.engine.models import Models
    from lmapps.server.accounts.access import access_of
    from lmapps.server.gate.server import Server
    from lmapps.server.serve import create_app
    from lmapps.server.settings import ServeSettings
    from lmapps.server.store.store import Store

    engine = Engine(_endless(_tiny_checkpoint("transformer")), slots=slots)
    folder = tempfile.TemporaryDirectory()
    store = Store(database or f"sqlite:///{folder.name}/test.db")
    prepare(store)
    access = access_of(ServeSettings(**settings), store.database)
    running = Served(engine, store, seconds_per_step)
    models = Models.of(access.metered(engine)) if find is None else _several(engine, find)
    running.app = create_app(models, found, store, access)
    server = Server(running.app, models, 0, port=port)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    running.url = f"http://127.0.0.1:{port}"
    yield running
    server.should_exit = True
    thread.join(10)
    folder.cleanup()


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """`with serve(found, seconds_per_step=0.02) as served:` a server as a person meets it."""
    return _served


@pytest.fixture(scope="module")
def served(serve: Callable[..., Any]) -> Iterator[Served]:
    """A server with the four plugins and a random model at a readable speed."""
    with serve(discover(), 0.01) as running:
        yield running
