"""Settings -> a running server: models and plugins, page and API on one port."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from lmapps import __version__
from lmapps.discovery import Found, Library
from lmapps.engine.admission import ANY, Lengths
from lmapps.engine.backends.foreseen import foreseen_bytes
from lmapps.engine.backends.source import (
    Opening,
    fetch,
    found_sources,
    open_backend,
    source_of,
)
from lmapps.engine.devices import memory_for_models, precision, serving_devices
from lmapps.engine.models import Models
from lmapps.errors import CheckpointError, DatabaseFailed, EngineFailed, LmappsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.paths import find_checkpoint
from lmapps.pull.apart import stay_inside
from lmapps.server.accounts.access import Access, access_of
from lmapps.server.accounts.door import Door, Pages
from lmapps.server.api.apps import app_routes, described
from lmapps.server.api.monitor import monitor_routes
from lmapps.server.api.openai import openai_routes
from lmapps.server.api.protocol import on_error
from lmapps.server.api.runs import runs_routes
from lmapps.server.gate.addresses import Needed
from lmapps.server.gate.gate import Gate
from lmapps.server.gate.hosts import Hosts
from lmapps.server.gate.log import set_up
from lmapps.server.gate.traffic import Traffic
from lmapps.server.health import Health
from lmapps.server.reload import Hangup, Read, Reload
from lmapps.server.settings import ServeSettings
from lmapps.server.store.store import Store
from lmapps.server.waiting import wait_for_checkpoint, waiting_app
from lmapps.training.runs import Runs

PATIENCE_SECONDS = 1.0
"""How long the start waits for a plugin file that hangs; it may come later."""
AT_THE_DOOR = 32
"""Requests that are asked of the database at the same time whose they are. Python's own number, a
few more than there are processors, would be too small for a database that is slow."""


def serve(settings: ServeSettings, read: Read | None = None, hangup: Hangup | None = None) -> None:
    """Serve until interrupted. What cannot be opened raises an `LmappsError` before it listens, an
    engine that fails again and again `EngineFailed` at the end.

    read    reads the settings again, at SIGHUP
    hangup  SIGHUP, where it has a meaning already
    """
    from lmapps.server.gate.server import Server

    hangup = hangup or Hangup()
    store = Store(settings.database)
    access = access_of(settings, store.database)
    listening = settings.listen()
    library = Library(patience=PATIENCE_SECONDS)
    for failure in library.found.failures:
        say(f"plugin not loaded: {failure}")
    is_usual = settings.checkpoint == ServeSettings.checkpoint
    if is_usual and not find_checkpoint(settings.checkpoint[0]).exists():
        say(f"there is no model yet: {settings.url} says how to get one (Ctrl-C stops the server)")
        waiting = waiting_app(library.found, settings.hosts, settings.root_path)
        wait_for_checkpoint(find_default, waiting, listening)
        library.look()
    models = models_of(settings, access)
    default = models.load()
    hosts = Hosts(settings.hosts)
    app = create_app(models, library.found, store, access, hosts, settings.root_path)
    say(f"{default.name}: {default.about}; decoding: {default.step_name}")
    others = [name for name in models.names if name != default.name]
    say(f"lmapps serves {default.name} at {settings.url} (Ctrl-C stops it)")
    if others:
        say(f"on request also {', '.join(others)}")
    server = Server(app, models, forwarded_allow_ips=list(settings.proxies))

    def apply(settings: ServeSettings) -> None:
        set_up(settings.log, settings.log_prompts, settings.log_format)
        hosts.rename(settings.hosts)
        server.grace, models.budget = settings.grace, budget_of(settings)
        access.limit(settings)
        library.look_for_packages()

    apply(settings)

    def read_again() -> ServeSettings:
        new = read() if read else settings
        if new.hosts:
            access.check_open(new)
        return new

    hangup.reloads(Reload(settings, read_again, [apply]))
    keep_what_is_there()
    with library.watched(say):
        server.run(sockets=[listening])
    if server.gave_up:
        raise EngineFailed(f"{server.gave_up}; the server has stopped, so that it is started anew")


def keep_what_is_there() -> None:
    """Once everything is loaded: it stays. Python would look through all of it again and again for
    what nobody needs any more, and all streams would stand still for a quarter of a second.
    """
    gc.collect()
    gc.freeze()


def models_of(settings: ServeSettings, access: Access) -> Models:
    """The models that were named, and those that lie in the checkpoint folders."""
    devices = serving_devices()
    weights = precision(settings.weights, devices)
    lengths = Lengths(settings.longest_prompt or ANY.prompt, settings.longest_reply or ANY.reply)
    opening = Opening(settings.slots, settings.queue, weights, devices, lengths)
    return Models(
        [source_of(word) for word in settings.checkpoint],
        lambda source: access.metered(open_backend(source, opening)),
        lambda source: foreseen_bytes(source, opening),
        budget=budget_of(settings),
        find=found_sources,
        fetch=fetch,
    )


def budget_of(settings: ServeSettings) -> float:
    """Bytes that all loaded models together may take."""
    return settings.memory_bytes or memory_for_models(serving_devices())


def find_default() -> Checkpoint | None:
    """The default checkpoint, once it is whole."""
    folder = find_checkpoint(ServeSettings.checkpoint[0])
    try:
        return Checkpoint.load(folder) if folder.is_dir() else None
    except CheckpointError:  # it is being written
        return None


def say(sentence: str) -> None:
    """One line of the server's log."""
    print(sentence, flush=True)


def create_app(
    models: Models,
    found: Found,
    store: Store,
    access: Access = Access(),  # noqa: B008
    hosts: Hosts | None = None,
    root_path: str = "",
) -> FastAPI:
    """The whole web application. It closes models and store when it shuts down."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if not models.uses_hub:  # one that was asked for by name is downloaded whenever it is loaded
        stay_inside()
    from lmapps.server.accounts.pages import account_routes
    from lmapps.server.accounts.rendered import on_failed_database
    from lmapps.server.page.places import PROCESS, VERSION
    from lmapps.server.page.trouble import told_beside

    runs, traffic, health = Runs(), Traffic(), Health(models, store.database)
    pages = pages_of(models, found, store, access, runs)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(AT_THE_DOOR))
        async with pages.open():
            yield
        models.close()
        access.close()
        store.close()

    app = FastAPI(title="lmapps", version=__version__, docs_url=None, redoc_url=None)
    app.router.lifespan_context = lifespan
    app.add_exception_handler(LmappsError, on_error)
    app.add_middleware(Door, users=access.users, quotas=access.quotas, admins=access.admins)
    gate: dict[str, Any] = {"root_path": root_path, "traffic": traffic}
    app.add_middleware(Gate, hosts=hosts or Hosts(), **gate)  # the last one is the outermost
    app.include_router(openai_routes(models))
    app.include_router(monitor_routes(models, health, traffic, access.users is not None))
    app.include_router(app_routes(found, models))
    app.include_router(runs_routes(runs))
    if access.users and access.quotas:
        app.include_router(account_routes(access.users, access.quotas))
        app.add_exception_handler(DatabaseFailed, on_failed_database)

    @app.get(f"/{VERSION}", include_in_schema=False)
    async def version(request: Request) -> JSONResponse:
        told = told_beside(request, await health.parts())
        return JSONResponse(found.version, headers={PROCESS: str(pages.id), **told})

    describe = app.openapi
    app.openapi = lambda: described(describe(), found)  # type: ignore[method-assign]
    app.mount("/", Needed(pages))
    return app


def pages_of(models: Models, found: Found, store: Store, access: Access, runs: Runs) -> Pages:
    """The page, as often as there are people who see different tabs."""
    from lmapps.server.page.look import mount
    from lmapps.server.page.page import build_page

    id = secrets.randbits(48)  # JavaScript has no whole numbers of more than 53 bits

    def page(for_admins: bool) -> FastAPI:
        blocks = build_page(found, models, store, for_admins, access.users is not None, runs)
        blocks.app_id = id
        inside = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        return mount(inside, blocks, found.plugins.values())

    kinds = (True, False) if access.users else (access.admins,)
    return Pages({for_admins: page(for_admins) for for_admins in kinds}, id)
