"""An event that cannot be asked for so -> a sentence, where Gradio answers 500."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from gradio import route_utils
from gradio.route_utils import FnIndexInferError, get_fn

from lmapps.errors import InputError, LmappsError
from lmapps.server.api.protocol import error_body


def attend(app: FastAPI) -> None:
    """Do so for the page that is mounted in a web application."""
    inside = [getattr(route, "app", None) for route in app.routes]
    for one in (app, *inside):
        if isinstance(one, FastAPI):
            one.add_exception_handler(LmappsError, _refusal)
    route_utils.get_fn = _found


def _found(blocks: gr.Blocks, api_name: str | None, body: Any) -> Any:
    """The event that a page asks for. Raises `InputError`."""
    event, number, values = None, body.fn_index, len(body.data)
    with suppress(KeyError, FnIndexInferError):
        event = get_fn(blocks, api_name, body)
    if not event or not event.fn:  # an event without a function is the browser's alone
        raise InputError(f"this page has no event {number}: load it again")
    if body.batched:
        raise InputError("batched must be false: the page asks for one thing at a time")
    if values < len(event.inputs):
        raise InputError(f"event {number} takes {len(event.inputs)} values, got {values}")
    return event


async def _refusal(_: Request, error: Exception) -> JSONResponse:
    """An error as our API tells it, and where Gradio's page looks for it."""
    assert isinstance(error, LmappsError)
    return JSONResponse(error_body(error) | {"detail": str(error)}, error.status)
