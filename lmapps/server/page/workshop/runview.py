"""A run as it stands -> what a person sees: state, time left, curves, what it writes by now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lmapps.server.page.languages import later, translated, word
from lmapps.training.chart import line_chart
from lmapps.training.curves import logged_points as over
from lmapps.training.curves import metric_names
from lmapps.training.foresee import Foreseen
from lmapps.training.look import Look, State

SAMPLES_SHOWN = 6
STATES: dict[State, str] = {
    "starting": later("Reading the text"),
    "training": later("Training"),
    "scoring": later("Scoring"),
    "paused": later("Paused"),
    "stopped": later("Stopped"),
    "finished": later("Finished"),
    "failed": later("Failed"),
}


def run_html(look: Look) -> str:
    """Everything about a run, as HTML in which nothing that a model wrote is markup."""
    parts = [_head(look), _bar(look), _numbers(look), curves(look.log), *_samples(look)]
    return f'<div class="run-view">{"".join(parts)}</div>'


def empty_html() -> str:
    """What is shown before there is a run."""
    told = word(
        "There is no run yet. Bring some text, give the model a name and press Start: a few "
        "minutes show how it learns."
    )
    return f'<div class="run-view"><p class="soft">{escape(told)}</p></div>'


def duration(seconds: float) -> str:
    """So long, in words as short as they are exact: 40 s, 12 min, 3 h 20 min."""
    if seconds < 60:
        return str(word("{seconds} s", seconds=round(seconds)))
    minutes = round(seconds / 60)
    if minutes < 60:
        return str(word("{minutes} min", minutes=minutes))
    return str(word("{hours} h {minutes} min", hours=minutes // 60, minutes=minutes % 60))


def forecast_text(found: Foreseen) -> str:
    """A forecast as a sentence."""
    parts = [
        word("{millions} million parameters.", millions=f"{found.parameters / 1e6:.1f}"),
        word("About {needed} GB of memory", needed=f"{found.bytes / 1e9:.1f}")
        + (word(" of {room} GB", room=f"{found.room / 1e9:.1f}") if found.room else "")
        + ".",
        word("{steps} steps in about {time}.", steps=f"{found.steps:,}",
             time=duration(found.seconds)),
    ]  # fmt: skip
    if found.passes is not None:
        parts.append(word("The text is read {passes} times.", passes=f"{found.passes:.2g}"))
    if not found.fits:
        parts.append(word("That does not fit: it takes smaller passes, and longer."))
    return " ".join(map(str, parts))


def _head(look: Look) -> str:
    parts = [f'<span class="run-state {look.state}">{escape(str(word(STATES[look.state])))}</span>']
    left = look.seconds_left
    if look.state == "training" and left is not None:
        told = word("about {time} left", time=duration(left))
        parts.append(f"<span>{escape(str(told))}</span>")
    if not look.is_live:
        parts.append(report_link(look.folder))
    if look.why:
        parts.append(f'<span class="soft">{escape(translated(look.why))}</span>')
    return f'<div class="run-head">{"".join(parts)}</div>'


def report_link(run: Path) -> str:
    """The way to the report of the run in a folder; '' where there is none."""
    if not (run / "report.html").is_file():
        return ""
    href, told = f"runs/{quote(run.name)}/report.html", escape(str(word("Report")))
    return f'<a href="{href}" target="_blank" rel="noopener">{told}</a>'


def _bar(look: Look) -> str:
    percent = f"{look.share:.1%}"
    return (
        f'<div class="run-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{look.share * 100:.0f}" aria-label="{escape(look.name)}">'
        f'<div style="width: {percent}"></div></div>'
    )


def _numbers(look: Look) -> str:
    last, shown = look.last, dict[str, str]()
    newest = {**last, **(look.log[-1] if look.log else {})}  # an evaluation has no loss
    if last:
        shown[word("Step")] = f"{newest['step']:,}"
        shown[word("Tokens read")] = f"{last['tokens']:,}"
        shown[word("Loss")] = f"{last['loss']:.3f}"
    found = (entry["validation"] for entry in reversed(look.log) if "validation" in entry)
    validation: Mapping[str, Any] = next(found, {})
    if validation:
        shown[word("Validation loss")] = f"{validation['loss']:.3f}"
        shown[word("Next token right")] = f"{validation['accuracy']:.1%}"
    if "tokens_per_second" in last and look.is_live:
        shown[word("Tokens a second")] = f"{last['tokens_per_second']:,}"
    if last:
        shown[word("Trained for")] = duration(float(newest["seconds"]))
    return facts(shown)


def facts(shown: Mapping[str, str]) -> str:
    """Names and values side by side."""
    rows = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in shown.items()
    )
    return f"<dl>{rows}</dl>" if rows else ""


def curves(log: Sequence[Mapping[str, Any]]) -> str:
    """What a run's log says over the tokens it has read; '' where it says nothing."""
    metrics = metric_names(log)
    drawn = {
        word("Loss"): {
            word("training"): over(log, "loss"),
            word("validation"): over(log, "validation", "loss"),
        },
        word("Metrics on held-out examples"): {n: over(log, "metrics", n) for n in metrics},
        word("Next token right"): {"": over(log, "validation", "accuracy")},
        word("Tokens a second"): {"": over(log, "tokens_per_second")},
    }
    figures = "".join(
        f"<figure><figcaption>{escape(str(title))}</figcaption>{chart}</figure>"
        for title, series in drawn.items()
        if any(len(points) > 1 for points in series.values())
        if (chart := line_chart(str(title), str(word("tokens")), series))
    )
    return f'<div class="run-curves">{figures}</div>' if figures else ""


def compared_html(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """What `compare_table` gives, turned: a column for each checkpoint, a row for each score; a
    baseline, which is the same for all of them, once."""
    several = len({subject for _, subject, *_ in rows if ": " not in subject}) > 1
    columns = dict[str, Sequence[str]]()
    for checkpoint, subject, *cells in rows:
        own = f"{checkpoint}, {subject}" if several else checkpoint
        columns.setdefault(subject if ": " in subject else own, cells)
    scores = {
        name.replace("_", " "): [str(cells[number]) for cells in columns.values()]
        for number, name in enumerate(header[2:])
    }
    return f'<div class="run-view">{wide_table(str(word("Scores")), columns, scores)}</div>'


def wide_table(title: str, head: Iterable[str], rows: Mapping[str, Iterable[str]]) -> str:
    """A name and cells in each row. Where it is wider than the screen it scrolls, by keys too."""
    names = "".join(f"<th>{escape(name)}</th>" for name in ("", *head))
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows.items()
    )
    return (
        f'<div class="run-wide" tabindex="0" role="region" aria-label="{escape(title)}">'
        f"<table><tr>{names}</tr>{body}</table></div>"
    )


def _samples(look: Look) -> Iterator[str]:
    """What it wrote at its last evaluations, the newest first."""
    found: Sequence[tuple[int, str, str]] = [
        (entry["step"], asked, text)
        for entry in look.log
        for asked, text in entry.get("samples", {}).items()
    ]
    if not found:
        return
    yield f"<h4>{escape(str(word('What it writes')))}</h4>"
    for step, asked, text in found[: -SAMPLES_SHOWN - 1 : -1]:
        told = word("step {step}", step=f"{step:,}") + (f": {asked}" if asked else "")
        yield f'<div class="soft">{escape(told)}</div><pre>{escape(text)}</pre>'
