"""Settings -> a running server: engine and plugins, page and API on one port."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from lmapps import __version__
from lmapps.discovery import Found, Library
from lmapps.engine.engine import Engine
from lmapps.errors import CheckpointError, LmappsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.paths import find_checkpoint
from lmapps.server.api.apps import app_routes, described
from lmapps.server.api.openai import openai_routes
from lmapps.server.api.protocol import on_error
from lmapps.server.gate.gate import Gate
from lmapps.server.gate.hosts import Hosts
from lmapps.server.gate.log import set_up
from lmapps.server.settings import ServeSettings
from lmapps.server.store.store import Store
from lmapps.server.waiting import wait_for_checkpoint, waiting_app

PATIENCE_SECONDS = 1.0
"""How long the start waits for a plugin file that hangs; it may come later."""


def serve(settings: ServeSettings) -> None:
    """Serve until interrupted. What cannot be opened raises an `LmappsError` before it listens."""
    from lmapps.server.gate.server import Server

    listening = settings.listen()
    library = Library(patience=PATIENCE_SECONDS)
    for failure in library.found.failures:
        say(f"plugin not loaded: {failure}")
    folder = find_checkpoint(settings.checkpoint)
    if settings.checkpoint == ServeSettings.checkpoint and not folder.exists():
        say(f"there is no model yet: {settings.url} says how to get one (Ctrl-C stops the server)")
        checkpoint = wait_for_checkpoint(find_default, waiting_app(library.found), listening)
        library.look()
    else:
        checkpoint = Checkpoint.load(folder, device=best_device())
    store = Store(settings.database)
    engine = Engine(
        checkpoint, slots=settings.slots, queue=settings.queue, weights=settings.weights
    )
    app = create_app(engine, library.found, store)
    say(f"decoding: {engine.step_name}")
    say(f"lmapps serves {checkpoint.name} at {settings.url} (Ctrl-C stops it)")
    set_up()
    with library.watched(say):
        Server(app).run(sockets=[listening])


def find_default() -> Checkpoint | None:
    """The default checkpoint, once it is whole."""
    folder = find_checkpoint(ServeSettings.checkpoint)
    try:
        return Checkpoint.load(folder, device=best_device()) if folder.is_dir() else None
    except CheckpointError:  # it is being written
        return None


def say(sentence: str) -> None:
    """One line of the server's log."""
    print(sentence, flush=True)


def create_app(engine: Engine, found: Found, store: Store, hosts: Hosts | None = None) -> FastAPI:
    """The whole web application. It closes engine and store when it shuts down."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from lmapps.server.page.look import mount
    from lmapps.server.page.page import build_page
    from lmapps.server.page.places import VERSION

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()
        store.close()

    app = FastAPI(title="lmapps", version=__version__, docs_url=None, redoc_url=None)
    app.router.lifespan_context = lifespan
    app.add_middleware(Gate, hosts=hosts or Hosts())
    app.add_exception_handler(LmappsError, on_error)
    app.include_router(openai_routes(engine))
    app.include_router(app_routes(found, engine))

    @app.get(f"/{VERSION}", include_in_schema=False)
    async def version() -> int:
        return found.version

    describe = app.openapi
    app.openapi = lambda: described(describe(), found)  # type: ignore[method-assign]
    return mount(app, build_page(found, engine, store), found.plugins.values())


def best_device() -> str:
    """The accelerator of this machine, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
