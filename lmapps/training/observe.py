"""A model in training -> what it writes by now, and how its plugins' metrics score that.

The loss says how well the next token is predicted; these say what a person would see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lmapps.decoding import Decoding
from lmapps.engine.application import Application
from lmapps.engine.engine import Engine
from lmapps.errors import PromptTooLong, ReplyError
from lmapps.evaluation.programs import Problem, ks_of
from lmapps.evaluation.tasks import score, score_coding
from lmapps.model.checkpoint import Checkpoint
from lmapps.plugin import Example, Plugin

FREE_TEXT = Decoding(temperature=0.8, top_p=0.95, max_new_tokens=64, seed=0)


@dataclass(frozen=True)
class Observation:
    """Beside the loss, at one evaluation."""

    samples: dict[str, str] = field(default_factory=dict)
    """What was asked -> what the model wrote. Free text has the key ''."""
    metrics: dict[str, float] = field(default_factory=dict)
    """`plugin.metric` -> its mean over held-out examples; higher is better."""


Observe = Callable[[], Observation]


def observe_text(checkpoint: Checkpoint) -> Observation:
    """The beginning of a text, always drawn with the same seed."""
    with _Evaluating(checkpoint), Engine(checkpoint, slots=1) as engine:
        reply = engine.generate([checkpoint.tokenizer.bos_id], FREE_TEXT)
    return Observation(samples={"": reply.text})


def observe_apps(
    checkpoint: Checkpoint,
    held_out: Mapping[Plugin, Sequence[Example]],
    judged: int,
    problems: Mapping[Plugin, Sequence[Problem]],
    draws: int,
) -> Observation:
    """A greedy reply to each plugin's first example, metrics over `judged` held-out ones, and
    pass@k over `draws` programs for each problem."""
    samples: dict[str, str] = {}
    metrics: dict[str, float] = {}
    with _Evaluating(checkpoint), Engine(checkpoint) as engine:
        for plugin, examples in held_out.items():
            if plugin.examples:
                asked, reply = asyncio.run(_first_example(plugin, engine))
                samples[f"{plugin.name}: {asked}"] = reply
            if judged and plugin.metrics and examples:
                scores = score(plugin, engine, examples, judged)
                for name in plugin.metrics:
                    if scores[name] is not None:
                        metrics[f"{plugin.name}.{name}"] = scores[name]
            if plugin in problems:
                passed = pass_at_ks(plugin, engine, problems[plugin], draws)
                metrics |= {f"{plugin.name}.{name}": share for name, share in passed.items()}
    return Observation(samples, metrics)


def pass_at_ks(
    plugin: Plugin, engine: Engine, problems: Sequence[Problem], samples: int
) -> dict[str, float]:
    """`pass@1` and the like; programs run in the sandbox."""
    scores = score_coding(plugin, engine, problems, samples, ks_of(samples))
    return {name: share for name, share in scores.items() if name.startswith("pass@")}


async def _first_example(plugin: Plugin, engine: Engine) -> tuple[str, str]:
    values = plugin.examples[0]
    fields = dict(zip((item.name for item in plugin.fields), values, strict=False))
    decoding = plugin.decoding.replace(temperature=0.0)
    try:
        reply = (await Application(plugin, engine).reply(fields, decoding)).reply
    except (PromptTooLong, ReplyError) as error:  # a short context must not end the run
        reply = f"({error})"
    return " | ".join(str(value) for value in values if value), reply


class _Evaluating:
    """The model without dropout for a while."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model = checkpoint.model
        self.was_training = self.model.training

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.model.train(self.was_training)
