"""The best weights of a run -> its final scores, beside those of something trivial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lmapps.engine.engine import Engine
from lmapps.evaluation.baselines import trigram_on
from lmapps.evaluation.language import evaluate_corpus
from lmapps.evaluation.tasks import score
from lmapps.model.checkpoint import Checkpoint
from lmapps.text.corpus import Split
from lmapps.training.observe import pass_at_ks
from lmapps.training.prepare import Prepared
from lmapps.training.settings import TrainSettings

SCORED_TOKENS = 1_000_000
"""Of a longer split an even sample of so many tokens is scored."""
SPLITS_SCORED: tuple[Split, ...] = ("validation", "test")


def final_scores(
    best: Checkpoint, prepared: Prepared, settings: TrainSettings
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """By subject: the model's scores, and those of what is trivial."""
    scores: dict[str, Any] = {}
    baselines: dict[str, dict[str, Any]] = {}
    if prepared.corpus:
        for split in SPLITS_SCORED:
            own = evaluate_corpus(best.model, prepared.corpus, best.tokenizer, split, SCORED_TOKENS)
            scores[split] = own.as_dict()
            trigram = trigram_on(prepared.corpus, best.tokenizer, split, SCORED_TOKENS)
            baselines[split] = {"trigram model": trigram}
    else:
        scores["validation"] = prepared.validate(best.model).as_dict()
        if prepared.validate_on_test:
            scores["test"] = prepared.validate_on_test(best.model).as_dict()
        apps = _score_apps(best, prepared, settings)
        scores |= {name: own for name, (own, _) in apps.items()}
        baselines |= {name: trivial for name, (_, trivial) in apps.items()}
    return scores, baselines


def _score_apps(
    checkpoint: Checkpoint, prepared: Prepared, settings: TrainSettings
) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Each plugin's metrics on `judged` examples of the test, or of validation where there are
    none, and pass@k on its problems, and the metrics of trivial replies."""
    judged = settings.judged
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    with Engine(checkpoint) as engine:
        for plugin, validation in prepared.held_out.items():
            examples = prepared.test.get(plugin) or validation
            own: dict[str, Any] = {}
            trivial: dict[str, Any] = {}
            if judged and plugin.metrics and examples:
                own = score(plugin, engine, examples, judged, overlap=True)
                trivial = own.pop("baselines")
            if plugin in prepared.problems:
                problems = prepared.problems[plugin]
                own |= pass_at_ks(plugin, engine, problems, settings.samples)
            if own:
                found[plugin.name] = own, trivial
    return found


def scored_on_validation(
    prepared: Prepared, settings: TrainSettings, scores: Mapping[str, Any]
) -> Iterator[str]:
    """The plugins whose final scores are on what chose the best weights."""
    for plugin in prepared.held_out:
        by_examples = "examples" in scores.get(plugin.name, {}) and not prepared.test.get(plugin)
        if by_examples or settings.best.startswith(f"{plugin.name}.pass@"):
            yield plugin.name
