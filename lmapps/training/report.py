"""A finished run -> `report.json`, and `report.html`: one page that needs nothing beside it."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from accelerate import Accelerator

from lmapps import __version__
from lmapps.machine import usable_cores
from lmapps.model.checkpoint import Checkpoint
from lmapps.small_file import small_object
from lmapps.training.chart import line_chart
from lmapps.training.course import curves_of, gap_of, samples_of
from lmapps.training.curves import logged_points, metric_names
from lmapps.training.prepare import Prepared
from lmapps.training.provenance import plugin_hashes
from lmapps.training.run import Progress, Run
from lmapps.training.scores import final_scores, scored_on_validation
from lmapps.training.settings import TrainSettings

HELD_OUT, TRAINED_ON = "held-out data", "examples that were trained on, since none were held out"
LEFT_OUT = ("curves", "samples")
"""Left out of the history of runs before, which would grow with each."""


def make_report(
    settings: TrainSettings,
    prepared: Prepared,
    progress: Progress,
    accelerator: Accelerator,
    code: dict[str, str | None],
) -> dict[str, Any]:
    """Scores of the best checkpoint on validation and test, what it took, and how it went; `code`
    is what trained it, which may have changed since on the disk."""
    log = Run(settings.out).entries()
    best = Checkpoint.load(settings.out, device=accelerator.device)
    scores, baselines = final_scores(best, prepared, settings)
    is_held_out = prepared.corpus is not None or any(prepared.held_out.values())
    return {
        "lmapps": __version__,
        **code,
        "plugins_sha256": plugin_hashes(prepared.held_out),
        "settings": settings.as_dict(),
        "model": {"body": best.config.body, "parameters": best.config.parameters},
        "data": {
            name: {"documents": c.documents, "tokens": c.tokens, "bytes": c.bytes}
            for name, c in (prepared.corpus.splits if prepared.corpus else {}).items()
        },
        "data_sha256": prepared.data_sha256,
        "steps": progress["step"],
        "tokens": progress["tokens"],
        "seconds": round(progress["seconds"], 1),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "scores": scores,
        "baselines": baselines,
        "validated_on": HELD_OUT if is_held_out else TRAINED_ON,
        "scored_on_validation": list(scored_on_validation(prepared, settings, scores)),
        "gap": gap_of(log) if is_held_out else None,
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
            "device": str(accelerator.device),
            "processes": accelerator.num_processes,
            "cores": usable_cores(),
            "mixed_precision": accelerator.mixed_precision,
        },
        "samples": samples_of(log),
        "curves": curves_of(log),
        "before": report_of(settings.start_from),
    }


def with_baselines(
    scores: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Subject -> scores, each followed by `subject: baseline` for what is trivial."""
    rows: dict[str, dict[str, Any]] = {}
    for subject, values in scores.items():
        rows[subject] = values
        for name, trivial in baselines.get(subject, {}).items():
            rows[f"{subject}: {name}"] = dict(trivial)
    return rows


def report_of(folder: str) -> dict[str, Any] | None:
    """The report of the checkpoint that a run started from, without its curves and samples: the
    whole history goes along."""
    report = small_object(Path(folder) / "report.json") if folder else {}
    return {name: value for name, value in report.items() if name not in LEFT_OUT} or None


def report_page(report: dict[str, Any], log: Sequence[Progress]) -> str:
    """The report and the run's log as one HTML page."""
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    environment = Environment(loader=PackageLoader("lmapps.training", "."), autoescape=True)
    template = environment.get_template("report.html.jinja")
    settings = report["settings"]
    model = report["model"]
    rows = with_baselines(report["scores"], report.get("baselines", {}))
    return template.render(
        title=f"Training report: {Path(settings['out']).name}",
        subtitle=(
            f"{model['body']}, {model['parameters']:,} parameters; {report['steps']:,} steps, "
            f"{report['tokens']:,} tokens in {report['seconds'] / 60:.1f} minutes; "
            f"finished {report['finished']}"
        ),
        scores={name: shown_scores(values) for name, values in rows.items()},
        trivial=rows.keys() - report["scores"].keys(),
        score_names=list(dict.fromkeys(k for v in rows.values() for k in shown_scores(v))),
        notes=list(filter(None, [why_no_bits(rows.values()), _validated(report), _gap(report)])),
        charts={name: Markup(chart) for name, chart in charts(log).items()},  # noqa: S704
        samples=samples_of(log),
        tables={
            "Settings": {k: _plain(v) for k, v in settings.items() if v not in ("", (), [])},
            "Data": _data_rows(report),
            "Machine and code": report["machine"] | _code_rows(report),
        },
        history=list(_history(report["before"])),
    )


def charts(log: Sequence[Progress]) -> dict[str, str]:
    """One SVG a quantity, over tokens."""

    def over(*path: str) -> list[tuple[float, float]]:
        return logged_points(log, *path)

    metrics = metric_names(log)
    drawn = {
        "Loss, nats a token": {
            "training": over("loss"),
            "validation": over("validation", "loss"),
        },
        "Token accuracy": {"validation": over("validation", "accuracy")},
        "Metrics": {name: over("metrics", name) for name in metrics},
        "Learning rate": {"": over("learning_rate")},
        "Gradient norm, before clipping": {"": over("gradient_norm")},
        "Tokens a second": {"": over("tokens_per_second")},
    }
    return {name: line_chart(name, "tokens", series) for name, series in drawn.items()}


def _validated(report: Mapping[str, Any]) -> str:
    """What the scores are not, as a sentence; '' where they are what they seem."""
    if report.get("validated_on") == TRAINED_ON:
        return f"Validation is on {TRAINED_ON}: it says nothing about others."
    scored = report.get("scored_on_validation")
    if not scored:
        return ""
    return (
        f"The scores of {', '.join(scored)} are on examples or problems that chose the best "
        "weights: those on others may be lower."
    )


def _gap(report: Mapping[str, Any]) -> str:
    gap = report.get("gap")
    if gap is None:
        return ""
    return (
        f"Validation loss is {abs(gap):.3f} {'above' if gap > 0 else 'below'} the training loss "
        "of the last tenth of the run."
    )


def _history(report: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Runs before this one, which may be somebody else's: each value as it is there."""
    while report:
        settings, scores = _inner(report, "settings"), _inner(report, "scores")
        tokens = report.get("tokens", 0)
        yield {
            "folder": settings.get("out", ""),
            "data": _plain(settings.get("data", ())),
            "steps": report.get("steps", ""),
            "tokens": f"{tokens:,}" if isinstance(tokens, int) else tokens,
            "loss": _plain(_inner(scores, "validation").get("loss")),
        }
        report = _inner(report, "before")


def _inner(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object of that name; empty where there is none."""
    found = report.get(name)
    return found if isinstance(found, dict) else {}


def _data_rows(report: dict[str, Any]) -> dict[str, str]:
    rows = {
        name: f"{c['documents']:,} documents, {c['tokens']:,} tokens, {c['bytes']:,} bytes"
        for name, c in report["data"].items()
    }
    return rows | {"SHA-256": report["data_sha256"]}


def _code_rows(report: dict[str, Any]) -> dict[str, str]:
    plugins = report.get("plugins_sha256", {})
    return {
        "lmapps": report["lmapps"],
        "commit": report["code"] or "not known",
        "SHA-256 of its sources": report.get("code_sha256", ""),
        **{f"SHA-256 of plugin {name}": value for name, value in plugins.items()},
    }


def shown_scores(scores: Mapping[str, Any]) -> dict[str, str]:
    """As they stand in a table; "-" for bits per byte that `why_no_bits` says more about."""
    shown = dict(scores) | ({"bits_per_byte": "-"} if scores.get("unknown_rate") else {})
    return {
        name.replace("_", " "): _plain(value) for name, value in shown.items() if value is not None
    }


def why_no_bits(scores: Iterable[Mapping[str, Any]]) -> str:
    """What "-" stands for, as a sentence; '' where no text has unknown tokens."""
    rates = [rate for values in scores if (rate := values.get("unknown_rate"))]
    return (
        f"No bits per byte (-) where tokens are unknown (up to {100 * max(rates):.3g}% of them): "
        "the text that they stand for is lost."
        if rates
        else ""
    )


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
