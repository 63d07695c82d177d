"""A plugin, an engine and held-out examples -> the plugin's own metrics, ROUGE and BLEU, pass@k."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from lmapps.decoding import Decoding
from lmapps.engine.application import Application, Done
from lmapps.engine.engine import Engine
from lmapps.errors import PluginError, PromptTooLong, ReplyError
from lmapps.evaluation.baselines import baseline_scores
from lmapps.evaluation.conduct import conduct
from lmapps.evaluation.overlap import overlap_scores
from lmapps.evaluation.programs import Problem, score_programs
from lmapps.metrics import parses_as_python
from lmapps.plugin import Example, Plugin

SIDE_BY_SIDE = 16
SAMPLE_TEMPERATURE = 0.8
"""Of programs, where several are drawn for a problem (Chen et al., 2021, for pass@100)."""

Request = tuple[Mapping[str, Any], Decoding]


def score(
    plugin: Plugin,
    engine: Engine,
    examples: Sequence[Example],
    limit: int = 50,
    *,
    overlap: bool = False,
) -> dict[str, Any]:
    """The mean of each metric over the first `limit` examples, answered greedily.

    `skipped` counts examples whose prompt does not fit the model's context. With `overlap` how the
    replies behave too, ROUGE and BLEU where the references are texts, and `baselines`: the scores
    of trivial replies to the same examples. Raises `PluginError` where the plugin has no metric.
    """
    if not plugin.metrics:
        raise PluginError(f"plugin {plugin.name!r} has no metric: add one with @metric")
    decoding = plugin.decoding.replace(temperature=0.0)
    chosen = examples[:limit]
    replies = ask(plugin, engine, [(e.fields, decoding) for e in chosen])
    answered = [
        (done.reply, example)
        for done, example in zip(replies, chosen, strict=True)
        if done is not None
    ]
    scores = [plugin.scores(reply, example) for reply, example in answered]
    means = {
        name: sum(values[name] for values in scores) / len(scores) if scores else None
        for name in plugin.metrics
    }
    result: dict[str, Any] = {
        "examples": len(scores),
        "skipped": len(replies) - len(scores),
        **means,
    }
    if overlap:
        texts, references = [r for r, _ in answered], [e.reference for _, e in answered]
        result |= conduct([done for done in replies if done is not None])
        result |= overlap_scores(texts, references)
        result["baselines"] = baseline_scores(plugin, [example for _, example in answered])
    return result


def score_coding(
    plugin: Plugin, engine: Engine, problems: Sequence[Problem], samples: int, ks: Sequence[int]
) -> dict[str, Any]:
    """pass@k of a plugin that writes code, and the share of replies that are Python by its grammar;
    the instruction is its first field.

    One sample is greedy; several are drawn with the seeds 0, 1, 2, ... Raises `NoSandbox` where
    programs cannot be confined.
    """
    field = plugin.fields[0].name
    temperature = SAMPLE_TEMPERATURE if samples > 1 else 0.0
    requests = [
        ({field: problem.instruction}, plugin.decoding.replace(temperature=temperature, seed=seed))
        for problem in problems
        for seed in range(samples)
    ]
    replies = [done.reply if done else "" for done in ask(plugin, engine, requests)]
    grouped = [replies[start : start + samples] for start in range(0, len(replies), samples)]
    parses = sum(map(parses_as_python, replies)) / max(1, len(replies))
    return {
        "examples": len(problems), "parses": parses, **score_programs(problems, grouped, ks)
    }  # fmt: skip


def ask(plugin: Plugin, engine: Engine, requests: Sequence[Request]) -> list[Done | None]:
    """The plugin's reply to each, several at a time; None where the prompt does not fit."""
    return asyncio.run(_replies(plugin, engine, requests))


async def _replies(
    plugin: Plugin, engine: Engine, requests: Sequence[Request]
) -> list[Done | None]:
    application = Application(plugin, engine)
    turns = asyncio.Semaphore(SIDE_BY_SIDE)

    async def reply(fields: Mapping[str, Any], decoding: Decoding) -> Done | None:
        async with turns:
            try:
                return await application.reply(fields, decoding)
            except PromptTooLong:
                return None
            except ReplyError:  # an empty reply has not the form either, and scores nothing
                return Done("", "", "length", 0, 0)

    return list(await asyncio.gather(*(reply(*request) for request in requests)))
