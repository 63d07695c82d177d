"""Command line -> a training run: `lmapps train`."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, fields
from typing import Any

# Of the settings, those written as one word with commas, or several words.
_LISTS = {"data", "apps"}
_NAMES = {"start_from": "--from"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from lmapps.training.settings import TrainSettings

    parser.add_argument("--recipe", help="TOML file with any of these settings; options win")
    for field in fields(TrainSettings):
        name = _NAMES.get(field.name, "--" + field.name.replace("_", "-"))
        kind = field.type if isinstance(field.type, type) else _kinds().get(str(field.type), str)
        default = field.default if field.default is not MISSING else None
        shown = f" (default: {default})" if default not in (None, "", (), 0) else ""
        options: dict[str, Any] = {"dest": field.name, "default": None, "type": kind}
        if str(field.type) == "bool":
            options = {"dest": field.name, "default": None, "action": "store_true"}
        if field.name in _LISTS:
            options |= {"nargs": "+" if field.name == "data" else None, "type": str}
        parser.add_argument(name, help=field.metadata["help"].replace("%", "%%") + shown, **options)


def main(args: argparse.Namespace) -> int:
    from lmapps.paths import find_checkpoint, home
    from lmapps.training.settings import TrainSettings, read_recipe
    from lmapps.training.start import run_training

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
    report = run_training(TrainSettings.from_values(values))
    if report:
        print(summary(report))
    return 0


def summary(report: dict[str, Any]) -> str:
    """The scores of a finished run, one line a split."""
    lines = []
    for split, scores in report["scores"].items():
        if "loss" not in scores:  # a plugin's own metrics
            known = (f"{key} {value:.3g}" for key, value in scores.items() if value is not None)
            lines.append(f"{split}: {', '.join(known)}")
            continue
        bits = scores.get("bits_per_byte")
        lines.append(
            f"{split}: loss {scores['loss']:.4f}, accuracy {scores['accuracy']:.1%}, "
            f"perplexity {scores['perplexity']:.2f}"
            + (f", {bits:.4f} bits per byte" if bits else "")
        )
    out = report["settings"]["out"]
    lines.append(f"checkpoint in {out}: try `lmapps serve --checkpoint {out}`")
    return "\n".join(lines)


def _kinds() -> dict[str, type]:
    return {"int": int, "float": float, "str": str}
