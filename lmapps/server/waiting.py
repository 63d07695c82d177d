"""No checkpoint yet -> a page and answers that say how to get one, until it is there."""

from __future__ import annotations

import html
import socket
import threading
from collections.abc import Callable, Sequence

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from lmapps.discovery import Found
from lmapps.errors import LmappsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.paths import home
from lmapps.server.api.protocol import error_body
from lmapps.server.gate.gate import Gate
from lmapps.server.gate.hosts import Hosts

LOOK_SECONDS = 1.0
"""How often it is looked for."""

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>lmapps</title>
<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="3">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 1rem }}
pre {{ overflow-x: auto; padding: .7rem; border: 1px solid #8886; border-radius: .4rem }}
</style>
<h1>lmapps has no model yet</h1>
<p>The server runs, but there is no checkpoint named <b>default</b>. This page becomes the
applications by itself as soon as there is one in</p><pre>{place}</pre>
<h2>Train one</h2><p>On any text of yours, from a few hundred kilobytes on. Ten minutes on a laptop
give a model that writes in its manner:</p>
<pre>lmapps train --data my_texts/ --minutes 10 --out "{place}"</pre>
<h2>Or use one that is there</h2><p>Any folder in the format of Llama or Qwen3, or one that lmapps
wrote, for example <code>checkpoints/default</code> of the project's source:</p>
<pre>lmapps serve --checkpoint FOLDER</pre>
<h2>Applications that wait for it</h2><ul>{plugins}</ul></html>"""


class NoModel(LmappsError):
    """There is no checkpoint to answer with yet."""

    status = 503


def wait_for_checkpoint(
    find: Callable[[], Checkpoint | None], app: FastAPI, listening: socket.socket
) -> Checkpoint:
    """Serve what waits until a checkpoint is found; the socket stays open for what comes next."""
    from lmapps.server.gate.server import Server

    server = Server(app)
    found: list[Checkpoint] = []
    ended = threading.Event()

    def look() -> None:
        while not found and not ended.wait(LOOK_SECONDS):
            checkpoint = find()
            if checkpoint:
                found.append(checkpoint)
        server.should_exit = True

    looking = threading.Thread(target=look, daemon=True, name="looking for a checkpoint")
    looking.start()
    server.run(sockets=[listening.dup()])
    ended.set()
    looking.join()
    if not found:
        raise KeyboardInterrupt
    return found[0]


def waiting_app(found: Found, hosts: Sequence[str] = (), root_path: str = "") -> FastAPI:
    """Every address answers 503: the page in words for a person, the rest as an error."""
    place = home() / "checkpoints" / "default"
    app = FastAPI(title="lmapps", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Gate, hosts=Hosts(hosts), root_path=root_path)
    sentence = NoModel(
        f"there is no model yet: train one with `lmapps train --data FILES --out {place}`, or "
        "start with `lmapps serve --checkpoint FOLDER`"
    )

    @app.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
    async def answer(request: Request, path: str) -> Response:
        if path:
            return JSONResponse(error_body(sentence), 503, {"Retry-After": "5"})
        plugins = "".join(
            f"<li><b>{html.escape(plugin.title)}</b>: {html.escape(plugin.help)}"
            for plugin in found.plugins.values()
        )
        page = PAGE.format(place=html.escape(str(place)), plugins=plugins)
        return HTMLResponse(page, 503, {"Retry-After": "5"})

    return app
