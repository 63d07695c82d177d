"""Command line -> a training run: `lmapps train`."""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmapps.training.settings import TrainSettings

# Of the settings, those written as one word with commas, or several words.
_LISTS = {"data", "apps", "mix_data", "problems"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from lmapps.training.settings import TrainSettings, option_name

    parser.add_argument("--recipe", help="TOML file with any of these settings; options win")
    for field in fields(TrainSettings):
        name = option_name(field.name)
        kind = field.type if isinstance(field.type, type) else _kinds().get(str(field.type), str)
        default = field.default if field.default is not MISSING else None
        shown = f" (default: {default})" if default not in (None, "", (), 0) else ""
        options: dict[str, Any] = {"dest": field.name, "default": None, "type": kind}
        if str(field.type) == "bool":
            options = {"dest": field.name, "default": None, "action": "store_true"}
        if field.name in _LISTS:
            options |= {"nargs": None if field.name == "apps" else "+", "type": str}
        parser.add_argument(name, help=field.metadata["help"].replace("%", "%%") + shown, **options)


def main(args: argparse.Namespace) -> int:
    from lmapps.training.process import held
    from lmapps.training.supervise import can_supervise, supervised

    out = _values(args).get("out")
    is_first = os.environ.get("RANK", "0") == "0"
    with held(Path(str(out))) if out and is_first else nullcontext():
        if getattr(args, "is_program", False) and can_supervise():
            return supervised(lambda: train(args), lambda: _halve(args))
        return train(args)


def train(args: argparse.Namespace) -> int:
    from lmapps.training.start import run_training

    report = run_training(_settings(args))
    if report:
        print(summary(report))
    return 0


def _settings(args: argparse.Namespace) -> TrainSettings:
    from lmapps.training.settings import TrainSettings

    return TrainSettings.from_values(_values(args))


def _values(args: argparse.Namespace) -> dict[str, Any]:
    """What was given, by the names of `TrainSettings`; not checked yet, which takes torch."""
    from lmapps.paths import find_checkpoint, home
    from lmapps.training.settings import TrainSettings, read_recipe

    values = read_recipe(args.recipe) if args.recipe else {}
    known = [field.name for field in fields(TrainSettings)]
    for name in known:
        given = getattr(args, name)
        if given is not None:
            values[name] = given.split(",") if name == "apps" else given
    if values.get("apps"):
        values.setdefault("start_from", "default")
        values.setdefault("out", str(home() / "checkpoints" / "-".join(values["apps"])))
    if values.get("start_from"):
        values["start_from"] = str(find_checkpoint(values["start_from"]))
    return values


def _halve(args: argparse.Namespace) -> None:
    """After a kill for memory."""
    from lmapps.training.run import Run

    settings = _settings(args)
    run = Run(settings.out)
    context = settings.context if not settings.start_from else context_of(settings.start_from)
    run.halve_micro_batch(
        run.fitted(settings), context, f"the machine ran out of memory{run.largest}"
    )


def context_of(folder: str) -> int:
    from lmapps.model.folder import read_json

    return int(read_json(Path(folder), "config.json")["max_position_embeddings"])


def summary(report: dict[str, Any]) -> str:
    """The scores of a finished run, one line a split."""
    from lmapps.evaluation.language import told_bits
    from lmapps.training.report import TRAINED_ON

    lines = []
    for split, scores in report["scores"].items():
        if "loss" not in scores:  # a plugin's own metrics
            known = (f"{key} {value:.3g}" for key, value in scores.items() if value is not None)
            lines.append(f"{split}: {', '.join(known)}")
            continue
        bits = told_bits(scores)
        lines.append(
            f"{split}: loss {scores['loss']:.4f}, accuracy {scores['accuracy']:.1%}, "
            f"perplexity {scores['perplexity']:.2f}" + (f", {bits}" if bits else "")
        )
    if report.get("validated_on") == TRAINED_ON:
        lines.append(f"validation is on {TRAINED_ON}")
    out = report["settings"]["out"]
    lines.append(f"checkpoint in {out}: try `lmapps serve --checkpoint {out}`")
    return "\n".join(lines)


def _kinds() -> dict[str, type]:
    return {"int": int, "float": float, "str": str}
