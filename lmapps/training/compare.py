"""Scores of several checkpoints -> one table, as text and as a page with plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmapps.training.chart import bar_chart, line_chart
from lmapps.training.curves import logged_points
from lmapps.training.log import Log
from lmapps.training.report import shown_scores, why_no_bits, with_baselines

Results = Mapping[str, Mapping[str, dict[str, Any]]]
"""Checkpoint -> subject (`text`, a plugin, `programs`) -> scores, with `baselines` among them, and
`model` -> its body and parameters."""

LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "unknown_rate")
NOT_DRAWN = ("tokens", "examples", "skipped")


def rows_of(results: Results) -> list[tuple[str, str, dict[str, Any]]]:
    """(checkpoint, subject, scores), a baseline after what it belongs to."""
    rows = []
    for checkpoint, subjects in results.items():
        own = {name: values for name, values in subjects.items() if name != "model"}
        scores = {
            name: {key: value for key, value in values.items() if key != "baselines"}
            for name, values in own.items()
        }
        baselines = {name: values.get("baselines", {}) for name, values in own.items()}
        rows += [(checkpoint, s, v) for s, v in with_baselines(scores, baselines).items()]
    return rows


def compare_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a row for each checkpoint and subject, a column for each score."""
    rows = rows_of(results)
    columns = list(dict.fromkeys(key for *_, values in rows for key in shown_scores(values)))
    models = {name: subjects.get("model", {}) for name, subjects in results.items()}
    table = []
    for checkpoint, subject, values in rows:
        shown, model = shown_scores(values), models[checkpoint]
        what = f"{model['body']}, {model['parameters'] / 1e6:.2f}M" if model else ""
        table.append([checkpoint, subject, what, *(shown.get(key, "") for key in columns)])
    return ["checkpoint", "scored on", "model", *columns], table


def compare_text(results: Results) -> str:
    """The table in columns, for a terminal, and what a "-" in it stands for."""
    header, rows = compare_table(results)
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join([*lines, *filter(None, [no_bits(results)])])


def no_bits(results: Results) -> str:
    """Why some have no bits per byte; '' where all have."""
    return why_no_bits(values for *_, values in rows_of(results))


def compare_page(results: Results, folders: Mapping[str, Path]) -> str:
    """The table, a bar chart of each score, and the curves of those whose log is there."""
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    environment = Environment(loader=PackageLoader("lmapps.training", "."), autoescape=True)
    header, rows = compare_table(results)
    charts = {**curves(folders), **bars(results)}
    return environment.get_template("compare.html.jinja").render(
        title=f"{len(results)} checkpoints compared" if len(results) > 1 else "Scores",
        header=header,
        rows=rows,
        no_bits=no_bits(results),
        trivial={subject for _, subject, _ in rows_of(results) if ": " in subject},
        charts={name: Markup(chart) for name, chart in charts.items()},  # noqa: S704
    )


def bars(results: Results) -> dict[str, str]:
    """One chart a subject and score, with a bar for each checkpoint and each baseline."""
    values: dict[str, dict[str, float]] = {}
    for checkpoint, subject, scores in rows_of(results):
        name, _, baseline = subject.partition(": ")
        for key, value in scores.items():
            if key in NOT_DRAWN or not isinstance(value, int | float):
                continue
            lower = " (lower is better)" if key in LOWER_IS_BETTER else ""
            title = f"{name}: {key.replace('_', ' ')}{lower}"
            label = f"{checkpoint}, {baseline}" if baseline else checkpoint
            values.setdefault(title, {})[label] = float(value)
    return {title: bar_chart(title, drawn) for title, drawn in values.items()}


def curves(folders: Mapping[str, Path]) -> dict[str, str]:
    """Validation over the tokens trained on, for runs whose log lies beside the weights."""
    logs = {name: Log().read(folder / "run" / "log.jsonl") for name, folder in folders.items()}
    drawn = {
        "Validation, bits per byte": ("validation", "bits_per_byte"),
        "Validation loss, nats a token": ("validation", "loss"),
    }
    return {
        title: line_chart(
            title, "tokens", {name: logged_points(log, *path) for name, log in logs.items()}
        )
        for title, path in drawn.items()
    }
