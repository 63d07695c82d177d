"""A path -> the part of the server that answers it, in a word."""

from __future__ import annotations

_AREAS = (
    ("/v1/", "api"),
    ("/apps", "apps"),
    ("/gradio_api/file=", "files"),
    ("/gradio_api/upload", "files"),
    ("/gradio_api/heartbeat", "live"),
    ("/gradio_api/", "events"),
    ("/plugins/version", "live"),
    ("/runs/version", "live"),
    *((f"/{name}", "assets") for name in ("assets", "static", "svelte", "favicon", "theme.css")),
    *((f"/{name}", "monitor") for name in ("health", "ready", "metrics")),
)


def area_of(path: str) -> str:
    """The part of the server that answers a path: few words, so that a log can be counted by it."""
    return next((area for start, area in _AREAS if path.startswith(start)), "page")
