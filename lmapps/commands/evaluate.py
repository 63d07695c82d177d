"""Command line -> scores of checkpoints on held-out text or on plugins: `lmapps evaluate`."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoints", nargs="*", default=["default"], help="folders or names")
    parser.add_argument("--data", nargs="+", default=[], help="held-out text; NAME=FILE for --apps")
    parser.add_argument("--apps", help="plugins to score by their own metric, e.g. chat,summarize")
    parser.add_argument(
        "--held-out", action="store_true", help="with --apps, what training on --data leaves out"
    )
    parser.add_argument("--limit", type=int, default=50, help="examples of each plugin")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def main(args: argparse.Namespace) -> int:
    from lmapps.errors import SettingsError

    if not args.data and not args.apps:
        raise SettingsError("nothing to evaluate on: give held-out text with --data, or --apps")
    if args.limit < 1:
        raise SettingsError(f"limit must be at least 1, got {args.limit}")
    results = {name: evaluate(name, args) for name in args.checkpoints}
    if args.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        for name, scores in results.items():
            for subject, values in scores.items():
                print(f"{name}  {subject}: {_line(values)}")
    return 0


def evaluate(name: str, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Scores of one checkpoint: `text` for language, and one entry a plugin."""
    from lmapps.model.checkpoint import Checkpoint
    from lmapps.paths import find_checkpoint

    checkpoint = Checkpoint.load(find_checkpoint(name))
    if args.apps:
        return _evaluate_apps(checkpoint, args)
    from lmapps.evaluation.language import evaluate_documents
    from lmapps.text.sources import read_documents

    return {"text": evaluate_documents(checkpoint, read_documents(args.data)).as_dict()}


def _evaluate_apps(checkpoint: Any, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    from lmapps.engine.engine import Engine
    from lmapps.evaluation.tasks import score
    from lmapps.training.examples import examples_to_score, files_of_apps, find_plugins

    names = args.apps.split(",")
    files = files_of_apps(names, args.data)
    results = {}
    with Engine(checkpoint) as engine:
        for plugin in find_plugins(names):
            examples = examples_to_score(plugin, files[plugin.name], args.held_out)
            results[plugin.name] = score(plugin, engine, examples, args.limit)
    return results


def _line(values: dict[str, Any]) -> str:
    shown = (
        f"{key.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
        if value is not None
    )
    return ", ".join(shown)
