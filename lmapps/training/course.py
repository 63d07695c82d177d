"""A run's log -> what its report keeps of it: thinned curves, samples over time, the gap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from lmapps.training.curves import logged_points, metric_names

MOST_POINTS = 500
"""Of a series."""
MOST_SAMPLES = 12
"""Unless the first and the last evaluation have more."""
SERIES = (
    ("loss",),
    ("validation", "loss"),
    ("validation", "accuracy"),
    ("validation", "bits_per_byte"),
    ("learning_rate",),
    ("gradient_norm",),
    ("tokens_per_second",),
)

Log = Sequence[Mapping[str, Any]]
Item = TypeVar("Item")


def curves_of(log: Log) -> dict[str, dict[str, list[float]]]:
    """Name in the log, such as validation.loss -> `tokens` seen and `values` at that place."""
    metrics = (("metrics", name) for name in metric_names(log))
    curves = {}
    for path in (*SERIES, *metrics):
        points = [point for point in logged_points(log, *path) if all(map(math.isfinite, point))]
        if points:
            tokens, values = zip(*evenly(points, MOST_POINTS), strict=True)
            curves[".".join(path)] = {
                "tokens": [round(number) for number in tokens],
                "values": [float(f"{value:.6g}") for value in values],
            }
    return curves


def samples_of(log: Log) -> list[dict[str, Any]]:
    """`step`, what was `asked` and the `reply`, of evaluations spread over the whole run."""
    sampled = [entry for entry in log if entry.get("samples")]
    each = max((len(entry["samples"]) for entry in sampled), default=1)
    return [
        {"step": entry["step"], "asked": asked, "reply": reply}
        for entry in evenly(sampled, max(2, MOST_SAMPLES // each))
        for asked, reply in entry["samples"].items()
    ]


def gap_of(log: Log) -> float | None:
    """The last validation loss minus the training loss of the last tenth of the run, in nats: how
    much better the text that was trained on is known. None where either is not there."""
    losses = [entry["loss"] for entry in log if "loss" in entry]
    validation = [entry["validation"]["loss"] for entry in log if "validation" in entry]
    if not losses or not validation:
        return None
    last = losses[-max(1, len(losses) // 10) :]
    gap = float(validation[-1] - sum(last) / len(last))
    return round(gap, 5) if math.isfinite(gap) else None


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, two at least, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
