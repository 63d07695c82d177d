"""An engine -> /health and /ready for whoever watches it, and /metrics in Prometheus' form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from lmapps import __version__
from lmapps.engine.counts import SECONDS, Histogram
from lmapps.engine.engine import Engine


def monitor_routes(engine: Engine) -> APIRouter:
    """`/health`, `/ready` and `/metrics`."""
    routes = APIRouter()
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine))

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "lmapps": __version__,
            "checkpoint": engine.name,
            "running": engine.running,
            "waiting": engine.waiting,
        }

    @routes.get("/ready", responses={"503": {"description": "not now: the reason is given"}})
    async def ready() -> Response:
        """Whether a request that comes now would be taken."""
        reason = engine.why_not_ready()
        return JSONResponse({"ready": not reason, "reason": reason}, 503 if reason else 200)

    @routes.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes


class EngineCollector(Collector):
    """Reads the engine's counts whenever Prometheus asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine, counts = self._engine, self._engine.counts
        yield GaugeMetricFamily("lmapps_running_requests", "that have a slot", engine.running)
        yield GaugeMetricFamily("lmapps_waiting_requests", "that wait for one", engine.waiting)
        kept = engine.prefix_bytes
        yield GaugeMetricFamily("lmapps_prefix_bytes", "memory of the states that are kept", kept)
        finished = CounterMetricFamily(
            "lmapps_requests", "requests at their end, by how they ended", labels=["finish"]
        )
        for finish in ("stop", "length", "cancelled", "error"):
            finished.add_metric([finish], counts.finished[finish])
        finished.add_metric(["refused"], counts.refused)
        yield finished
        for name, meaning, value in (
            ("accepted_requests", "requests that were queued", counts.accepted),
            ("forward_passes", "forward passes of the model", engine.passes),
            ("prompt_tokens", "tokens of the prompts that were begun", counts.prompt_tokens),
            (
                "reused_tokens",
                "of these, not read again: their state was kept",
                counts.reused_tokens,
            ),
            ("read_tokens", "of these, read by the model", counts.read_tokens),
            ("generated_tokens", "tokens of replies", counts.generated_tokens),
        ):
            yield CounterMetricFamily(f"lmapps_{name}", meaning, value)
        meaning = "from a request's arrival to its first token"
        yield _histogram("lmapps_time_to_first_token_seconds", meaning, counts.first_token)


def _histogram(name: str, meaning: str, histogram: Histogram) -> HistogramMetricFamily:
    buckets, total = [], 0
    for bound, count in zip([*map(str, SECONDS), "+Inf"], list(histogram.counts), strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(name, meaning, buckets=buckets, sum_value=histogram.sum)
