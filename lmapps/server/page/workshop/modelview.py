"""A checkpoint as it lies on disk -> what a person sees of it: facts, scores, curves."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from lmapps.engine.entry import Description
from lmapps.model.inventory import Stored
from lmapps.server.page.languages import later, word
from lmapps.server.page.workshop.runview import curves, facts, report_link, wide_table
from lmapps.training.log import Log

STATES = {
    "loaded": later("In memory"),
    "loading": later("Being loaded"),
    "not loaded": later("On disk"),
}


def model_html(
    model: Description, stored: Stored | None, is_default: bool, is_run: bool = False
) -> str:
    """Everything about a model, as HTML in which nothing of a file is markup.

    is_run  whether its folder is that of a training run, whose report can be read
    """
    shown = {word("State"): word(STATES[model.state])}
    if is_default:
        shown[word("State")] += ", " + word("answers whoever chooses no other")
    if stored is None and model.place:
        shown[word("Place")] = model.place
    if stored is not None:
        shown |= _facts(stored)
    if model.bytes:
        shown[word("Memory")] = megabytes(model.bytes)
    parts = [facts(shown)]
    if wrong := model.trouble or (stored.problem if stored else ""):
        parts.append(f'<p class="run-state failed">{escape(wrong)}</p>')
    if stored is not None:
        if is_run:
            parts.append(f'<div class="run-head">{report_link(stored.folder)}</div>')
        scores = stored.report.get("scores")
        parts += [_scores(scores) if isinstance(scores, dict) else "", _curves(stored)]
    return f'<div class="run-view">{"".join(parts)}</div>'


def megabytes(size: float) -> str:
    """A size for a person."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _facts(stored: Stored) -> dict[str, str]:
    known = {
        word("Body"): stored.body,
        word("Parameters"): f"{stored.parameters:,}" if stored.parameters else "",
        word("Context"): word("{count} tokens", count=stored.context) if stored.context else "",
        word("Vocabulary"): f"{stored.vocabulary:,}" if stored.vocabulary else "",
        word("On disk"): megabytes(stored.bytes) + (f", {stored.weights}" * bool(stored.weights)),
        word("Folder"): str(stored.folder),
    }
    return {name: value for name, value in known.items() if value}


def _scores(scores: Mapping[str, Any]) -> str:
    """A row for what it was scored on, a column for each score."""
    rows = {name: values for name, values in scores.items() if isinstance(values, dict)}
    names = list(dict.fromkeys(
        name for values in rows.values() for name, value in values.items()
        if isinstance(value, int | float)
    ))  # fmt: skip
    if not names:
        return ""
    title = str(word("Scores at the end of its training"))
    head = [name.replace("_", " ") for name in names]
    cells = {row: [_number(values.get(name)) for name in names] for row, values in rows.items()}
    return f"<h4>{escape(title)}</h4>{wide_table(title, head, cells)}"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else ""


def _curves(stored: Stored) -> str:
    return curves(Log().read(stored.folder / "run" / "log.jsonl"))
