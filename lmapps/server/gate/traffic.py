"""Requests that have ended -> how many, of what, and how long an answer took, for Prometheus."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from lmapps.server.gate.areas import area_of

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS")
TEMPLATES = (
    *("/", "/health", "/ready", "/metrics", "/openapi.json", "/plugins/version", "/runs/version"),
    *("/v1/models", "/v1/chat/completions", "/v1/completions", "/apps", "/login", "/logout"),
    *("/account", "/account/usage", "/account/password", "/account/keys", "/account/keys/revoke"),
    *("/v1/models/{name}", "/apps/{name}", "/runs/{name}/report.html"),
    *(f"/gradio_api/{name}" for name in ("queue/join", "queue/data", "run/predict", "cancel")),
    *(f"/gradio_api/{name}" for name in ("upload", "upload_progress", "file={name}", "app_id")),
    "/gradio_api/heartbeat/{name}",
)
"""Every address that is told by itself; a test compares them with what the server answers."""
_EXACT = frozenset(one for one in TEMPLATES if "{" not in one)
_NAMED = {
    one: re.compile(re.escape(one).replace(r"\{name\}", ".+"))
    for one in TEMPLATES if "{" in one
}  # fmt: skip


class Traffic:
    """What Prometheus is told of requests, by the template of their address, so that there are few
    whoever asks for what; `registry` takes more."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(namespace="lmapps", registry=registry)
        self._ended = Counter(
            "lmapps_http_requests", "requests that have ended; status 0: nobody waited for it",
            ["method", "route", "status"], registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "lmapps_http_answer_seconds", "from a request's arrival to the beginning of its answer",
            ["method", "route"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._open = Gauge(
            "lmapps_http_open_requests", "requests whose answer has not ended", registry=registry
        )

    def begun(self) -> None:
        self._open.inc()

    def ended(self, method: str, path: str, status: int, seconds: float | None) -> None:
        """seconds  until the answer began; None = it never did"""
        method = method if method in METHODS else "other"
        route = template_of(path)
        self._open.dec()
        self._ended.labels(method, route, str(status)).inc()
        if seconds is not None:
            self._seconds.labels(method, route).observe(seconds)


def template_of(path: str) -> str:
    """`/v1/models/{name}` for `/v1/models/small`; the part of the server for what has none."""
    if path in _EXACT:
        return path
    found = (template for template, pattern in _NAMED.items() if pattern.fullmatch(path))
    return next(found, area_of(path))
