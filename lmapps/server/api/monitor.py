"""Models and health -> /health and /ready for whoever watches, /metrics in Prometheus' form."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from lmapps import __version__
from lmapps.engine.backends.backend import Backend
from lmapps.engine.counts import SECONDS, Counts, Histogram
from lmapps.engine.models import Models
from lmapps.server.gate.traffic import Traffic
from lmapps.server.health import Health, worst
from lmapps.server.who import who

GAUGES: tuple[tuple[str, str, Callable[[Backend], float]], ...] = (
    ("running_requests", "that have a slot", lambda model: model.running),
    ("waiting_requests", "that wait for one", lambda model: model.waiting),
    ("model_bytes", "memory that the model takes at most", lambda model: model.bytes),
    ("prefix_bytes", "memory of the states that are kept", lambda model: model.prefix_bytes),
)
COUNTERS: tuple[tuple[str, str, Callable[[Counts], float]], ...] = (
    ("accepted_requests", "requests that were queued", lambda counts: counts.accepted),
    ("forward_passes", "forward passes of the model", lambda counts: counts.passes),
    ("prompt_tokens", "tokens of the prompts that were begun", lambda c: c.prompt_tokens),
    ("reused_tokens", "of these, not read again: their state was kept", lambda c: c.reused_tokens),
    ("read_tokens", "of these, read by the model", lambda counts: counts.read_tokens),
    ("generated_tokens", "tokens of replies", lambda counts: counts.generated_tokens),
)


def monitor_routes(
    models: Models, health: Health, traffic: Traffic, has_accounts: bool = False
) -> APIRouter:
    """`/health`, `/ready` and `/metrics`.

    has_accounts  whether strangers, who come without one, are told no more than how it is
    """
    routes = APIRouter()

    def is_stranger(request: Request) -> bool:
        return has_accounts and who(request).account is None

    traffic.registry.register(ModelsCollector(models))

    @routes.get("/health", responses={"503": {"description": "a part has failed: see parts"}})
    async def how(request: Request) -> Response:
        """Each part of the server and its state; why, for admins."""
        loaded, parts = models.loaded, await health.parts()
        status, shows_why = worst(parts), who(request).is_admin
        code = 503 if status == "failed" else 200
        if is_stranger(request):
            return JSONResponse({"status": status}, code)
        told = {
            "status": status,
            "lmapps": __version__,
            "checkpoint": models.default,
            "running": sum(backend.running for backend in loaded),
            "waiting": sum(backend.waiting for backend in loaded),
            "models": [
                {"name": one.name, "state": one.state, "bytes": one.bytes, "users": one.users}
                for one in models.describe()
            ],
            "parts": [vars(part) | ({} if shows_why else {"reason": ""}) for part in parts],
        }
        return JSONResponse(told, code)

    @routes.get("/ready", responses={"503": {"description": "not now: the reason is given"}})
    async def ready(request: Request) -> Response:
        """Whether a request that comes now, and names no model, would be taken."""
        reason = models.why_not_ready()
        told = {"ready": not reason, "reason": None if is_stranger(request) else reason}
        return JSONResponse(told, 503 if reason else 200)

    @routes.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(traffic.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


class ModelsCollector(Collector):
    """Reads the counts of the loaded models whenever Prometheus asks."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        models = self._models.loaded
        for name, meaning, value in GAUGES:
            gauge = GaugeMetricFamily(f"lmapps_{name}", meaning, labels=["model"])
            for model in models:
                gauge.add_metric([model.name], value(model))
            yield gauge
        finished = CounterMetricFamily(
            "lmapps_requests", "requests at their end, by how they ended",
            labels=["model", "finish"],
        )  # fmt: skip
        for model in models:
            for finish in ("stop", "length", "cancelled", "error"):
                finished.add_metric([model.name, finish], model.counts.finished[finish])
            finished.add_metric([model.name, "refused"], model.counts.refused)
        yield finished
        for name, meaning, count in COUNTERS:
            counter = CounterMetricFamily(f"lmapps_{name}", meaning, labels=["model"])
            for model in models:
                counter.add_metric([model.name], count(model.counts))
            yield counter
        servers = GaugeMetricFamily(
            "lmapps_model_server_up", "whether a server of a remote model answers; 0: it rests",
            labels=["model", "server"],
        )  # fmt: skip
        for model in models:
            for server, is_up in getattr(model, "servers_up", {}).items():
                servers.add_metric([model.name, server], is_up)
        yield servers
        first = HistogramMetricFamily(
            "lmapps_time_to_first_token_seconds", "from a request's arrival to its first token",
            labels=["model"],
        )  # fmt: skip
        for model in models:
            told = model.counts.first_token
            first.add_metric([model.name], _buckets(told), told.sum)
        yield first


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """How many were at most so slow, for each bound."""
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip([*map(str, SECONDS), "+Inf"], list(histogram.counts), strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
