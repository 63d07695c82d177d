"""Training runs over HTTP, for the page: whether anything has changed, and a run's report."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from lmapps.server.managing import check_may_manage
from lmapps.training.runs import NoSuchRun, Runs

VERSION = "runs/version"
LOOK_SECONDS = 1.0
"""The folders are looked at so often at most, however many pages ask."""


def runs_routes(runs: Runs) -> APIRouter:
    """`/runs/version` and `/runs/NAME/report.html`."""
    routes = APIRouter(include_in_schema=False)
    seen = ("", -LOOK_SECONDS)

    @routes.get(f"/{VERSION}")
    def version(request: Request) -> str:
        nonlocal seen
        check_may_manage(request)
        now = time.monotonic()
        if now - seen[1] >= LOOK_SECONDS:
            seen = runs.version(), now
        return seen[0]

    @routes.get("/runs/{name}/report.html")
    def report(name: str, request: Request) -> FileResponse:
        check_may_manage(request)
        file = runs.folder_of(name) / "report.html"
        if not file.is_file():
            raise NoSuchRun(f"the run {name!r} has no report yet: it is written at its end")
        # It shows what a model wrote: whatever that is, it must not act as this server's page.
        return FileResponse(file, headers={"Content-Security-Policy": "sandbox"})

    return routes
