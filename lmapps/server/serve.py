"""Settings -> a running server: engine and plugins, page and API on one port."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from lmapps import __version__
from lmapps.discovery import Found, discover
from lmapps.engine.engine import Engine
from lmapps.errors import LmappsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.paths import find_checkpoint
from lmapps.server.api import openai_routes
from lmapps.server.apps import app_routes
from lmapps.server.protocol import on_error
from lmapps.server.settings import ServeSettings

GRACE_SECONDS = 3
"""How long replies under way may go on when the server is asked to stop."""


def serve(settings: ServeSettings) -> None:
    """Serve until interrupted. Raises `SettingsError` or `CheckpointError` before it listens."""
    import uvicorn

    listening = settings.listen()
    checkpoint = Checkpoint.load(find_checkpoint(settings.checkpoint), device=best_device())
    found = discover()
    for failure in found.failures:
        print(f"plugin not loaded: {failure}")
    engine = Engine(
        checkpoint, slots=settings.slots, queue=settings.queue, weights=settings.weights
    )
    app = create_app(engine, found)
    print(f"decoding: {engine.step_name}")
    print(f"lmapps serves {checkpoint.name} at {settings.url} (Ctrl-C stops it)", flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS)
    uvicorn.Server(config).run(sockets=[listening])


def create_app(engine: Engine, found: Found) -> FastAPI:
    """The whole web application. It closes the engine when it shuts down."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gradio as gr

    from lmapps.server.page import CSS, build_page, theme

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPI(title="lmapps", version=__version__, docs_url=None, redoc_url=None)
    app.router.lifespan_context = lifespan
    app.add_exception_handler(LmappsError, on_error)
    app.include_router(openai_routes(engine))
    app.include_router(app_routes(found, engine))
    return gr.mount_gradio_app(
        app, build_page(found, engine), "/", theme=theme(), css=CSS, show_error=True,
        footer_links=["settings"], run_history=False, enable_monitoring=False,
        max_file_size="10mb", ssr_mode=False,
    )  # fmt: skip


def best_device() -> str:
    """The accelerator of this machine, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
