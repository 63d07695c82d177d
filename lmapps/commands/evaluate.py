"""Command line -> scores of checkpoints, side by side and beside baselines: `lmapps evaluate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmapps.native import WEIGHTS

if TYPE_CHECKING:
    from lmapps.model.checkpoint import Checkpoint

Scores = dict[str, dict[str, Any]]

TALKER = "chat"
"""The plugin that is asked questions."""
SAMPLES = 20
"""Replies of each plugin that `--write` writes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoints", nargs="*", default=["default"], help="folders or names")
    parser.add_argument("--data", nargs="+", default=[], help="held-out text; NAME=FILE for --apps")
    parser.add_argument("--apps", help="plugins to score by their own metric, e.g. chat,summarize")
    parser.add_argument(
        "--held-out", action="store_true", help="with --apps, what training on --data leaves out"
    )
    parser.add_argument("--limit", type=int, default=50, help="examples of each plugin")
    parser.add_argument(
        "--problems", help="HumanEval- or MBPP-format file: pass@k, code run in a sandbox"
    )
    parser.add_argument("--coder", default="code", help="with --problems, the plugin (code)")
    parser.add_argument("--samples", type=int, default=1, help="with --problems, of each one")
    parser.add_argument(
        "--questions", help="JSON Lines file of question and answers, asked through chat"
    )
    parser.add_argument(
        "--weights", default=WEIGHTS[0], choices=WEIGHTS,
        help="precision in which replies are written; text is always scored in float32 (float32)",
    )  # fmt: skip
    parser.add_argument("--write", help="with --apps, 20 unpicked replies of each as Markdown")
    parser.add_argument("--html", help="also write the comparison as a page with plots")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def main(args: argparse.Namespace) -> int:
    from lmapps.errors import SettingsError
    from lmapps.paths import find_checkpoint

    if not (args.data or args.apps or args.problems or args.questions):
        raise SettingsError(
            "nothing to evaluate on: give held-out text with --data, or --apps, or --problems, or "
            "--questions"
        )
    if args.write and (not args.apps or len(args.checkpoints) > 1):
        raise SettingsError("--write takes replies of one checkpoint and needs --apps")
    for name in ("limit", "samples"):
        if getattr(args, name) < 1:
            raise SettingsError(f"{name} must be at least 1, got {getattr(args, name)}")
    folders = {name: find_checkpoint(name) for name in args.checkpoints}
    results = {name: evaluate(folder, args) for name, folder in folders.items()}
    if args.html:
        from lmapps.training.compare import compare_page

        _write(Path(args.html), compare_page(results, folders))
    if args.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        from lmapps.training.compare import compare_text

        print(compare_text(results))
        if args.html:
            print(f"plots in {args.html}")
    return 0


def evaluate(folder: Path, args: argparse.Namespace) -> Scores:
    """Scores of one checkpoint: `model`, then `text` for language, one entry a plugin, and
    `programs`; what has a baseline has it under `baselines`."""
    from lmapps.model.checkpoint import Checkpoint

    checkpoint = Checkpoint.load(folder)
    config = checkpoint.config
    scores: Scores = {"model": {"body": config.body, "parameters": config.parameters}}
    if args.apps:
        scores |= _evaluate_apps(checkpoint, args)
    elif args.data:
        scores["text"] = _evaluate_text(checkpoint, args)
    if args.problems:
        scores["programs"] = _evaluate_programs(checkpoint, args)
    if args.questions:
        scores["questions"] = _evaluate_questions(checkpoint, args)
    return scores


def _evaluate_text(checkpoint: Checkpoint, args: argparse.Namespace) -> dict[str, Any]:
    from lmapps.evaluation.baselines import trigram_scores
    from lmapps.evaluation.language import encode_documents, evaluate_documents
    from lmapps.text.corpus import Corpus, is_corpus
    from lmapps.text.sources import read_documents

    documents = list(read_documents(args.data))
    scores = evaluate_documents(checkpoint, documents).as_dict()
    corpus = (checkpoint.folder or Path()) / "run" / "corpus"
    if is_corpus(corpus):  # what it was trained on, for a model by counting
        ids, bytes_per_token = encode_documents(checkpoint, documents)
        tokenizer = checkpoint.tokenizer
        trigram = trigram_scores(Corpus.load(corpus), tokenizer, ids, bytes_per_token)
        scores["baselines"] = {"trigram model": trigram}
    return scores


def _evaluate_apps(checkpoint: Checkpoint, args: argparse.Namespace) -> Scores:
    from lmapps.engine.engine import Engine
    from lmapps.evaluation.samples import draw_samples, samples_page
    from lmapps.evaluation.tasks import score
    from lmapps.training.examples import examples_to_score, files_of_apps, find_plugins

    names = args.apps.split(",")
    files = files_of_apps(names, args.data)
    results, samples = {}, {}
    with Engine(checkpoint, weights=args.weights) as engine:
        for plugin in find_plugins(names):
            examples = examples_to_score(plugin, files[plugin.name], args.held_out)
            results[plugin.name] = score(plugin, engine, examples, args.limit, overlap=True)
            if args.write:
                samples[plugin.name] = draw_samples(plugin, engine, examples, SAMPLES)
    if args.write:
        _write(Path(args.write), samples_page(checkpoint.name, samples))
    return results


def _evaluate_questions(checkpoint: Checkpoint, args: argparse.Namespace) -> dict[str, Any]:
    from lmapps.engine.engine import Engine
    from lmapps.evaluation.questions import read_questions, score_questions
    from lmapps.training.examples import find_plugins

    questions = read_questions(args.questions)
    with Engine(checkpoint, weights=args.weights) as engine:
        return score_questions(find_plugins([TALKER])[0], engine, questions)


def _evaluate_programs(checkpoint: Checkpoint, args: argparse.Namespace) -> dict[str, Any]:
    from lmapps.engine.engine import Engine
    from lmapps.evaluation.programs import ks_of, read_problems
    from lmapps.evaluation.sandbox import refuse_without_sandbox
    from lmapps.evaluation.tasks import score_coding
    from lmapps.training.examples import find_plugins

    refuse_without_sandbox()
    problems = read_problems(args.problems)
    with Engine(checkpoint, weights=args.weights) as engine:
        return score_coding(
            find_plugins([args.coder])[0], engine, problems, args.samples, ks_of(args.samples)
        )


def _write(file: Path, text: str) -> None:
    from lmapps.errors import StorageError
    from lmapps.text.storage import write_whole

    try:
        write_whole(file, text.encode())
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error}") from None
