"""An event that cannot be asked for so, and a failure in one -> a sentence, and a line of the log.

Gradio answers 500 to the former, and prints the latter with what somebody wrote.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from gradio import queueing, route_utils, routes
from gradio.route_utils import FnIndexInferError, get_fn

from lmapps.errors import InputError, LmappsError
from lmapps.server.api.protocol import error_body, error_headers
from lmapps.server.gate.log import places_of

LOG = logging.getLogger("lmapps.server")


def attend(app: FastAPI) -> None:
    """Do so for the page that is mounted in a web application."""
    inside = [getattr(route, "app", None) for route in app.routes]
    for one in (app, *inside):
        if isinstance(one, FastAPI):
            one.add_exception_handler(LmappsError, _refusal)
    route_utils.get_fn = _found
    ours = SimpleNamespace(**vars(traceback) | {"print_exc": _log_failure})
    for module in (queueing, routes, route_utils):
        module.traceback = ours  # type: ignore[attr-defined]


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


def _log_failure() -> None:
    """What Gradio prints of a failure, one line of our log. What it says may quote a person."""
    error = sys.exception()
    assert error
    LOG.error(
        "an event failed",
        extra={
            "fields": {"error": type(error).__name__, "traceback": places_of(error)},
            "private": str(error),
        },
    )


async def _refusal(_: Request, error: Exception) -> JSONResponse:
    """An error as our API tells it, and where Gradio's page looks for it."""
    assert isinstance(error, LmappsError)
    body = error_body(error) | {"detail": error.outward}
    return JSONResponse(body, error.status, error_headers(error))
