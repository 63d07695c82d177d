"""A run's log -> the points of its curves, without what a training imports: the page draws too."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from typing import Any

METRICS_DRAWN = 50


def metric_names(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is drawn of the metrics."""
    return sorted({name for entry in log for name in entry.get("metrics", {})})[:METRICS_DRAWN]


def logged_points(log: Sequence[Mapping[str, Any]], *path: str) -> list[tuple[float, float]]:
    """(tokens seen, value) wherever a log has the value at `path`, such as validation, loss."""
    tokens = {entry["step"]: entry["tokens"] for entry in log if "loss" in entry}
    steps = sorted(tokens)
    points = []
    for entry in log:
        value: Any = entry
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            points.append((_tokens_at(entry["step"], steps, tokens), float(value)))
    return points


def _tokens_at(step: int, steps: Sequence[int], tokens: Mapping[int, int]) -> float:
    """Tokens seen at a step, from the nearest step that was logged."""
    if step in tokens or not tokens:
        return float(tokens.get(step, step))
    after = bisect(steps, step)
    nearest = min(steps[max(0, after - 1) : after + 1], key=lambda logged: abs(logged - step))
    return tokens[nearest] * step / (nearest or 1)
