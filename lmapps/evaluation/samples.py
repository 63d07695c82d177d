"""Held-out examples and an engine -> a page of replies that nobody picked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmapps.engine.engine import Engine
from lmapps.evaluation.tasks import ask
from lmapps.plugin import Example, Plugin

LONGEST = 600
"""Characters shown of what was asked and of the reference."""


@dataclass(frozen=True)
class Sample:
    """What was asked, what came, and what a person wrote."""

    asked: str
    reply: str
    reference: str


def draw_samples(
    plugin: Plugin, engine: Engine, examples: Sequence[Example], count: int
) -> list[Sample]:
    """Replies to the first examples, decoded as people get them, with the seeds 0, 1, 2, ..."""
    chosen = examples[:count]
    requests = [
        (example.fields, plugin.decoding.replace(seed=seed)) for seed, example in enumerate(chosen)
    ]
    replies = ask(plugin, engine, requests)
    return [
        Sample(_asked(plugin, example), done.reply if done else "(too long)", example.reply)
        for example, done in zip(chosen, replies, strict=True)
    ]


def samples_page(name: str, samples: dict[str, list[Sample]]) -> str:
    """Markdown: one part a plugin, in the order of the data."""
    parts = [f"# {name}: replies that nobody picked\n"]
    for plugin, drawn in samples.items():
        parts.append(f"## {plugin}\n")
        for number, sample in enumerate(drawn, start=1):
            parts.append(f"### {plugin} {number}\n")
            shown = {
                "Asked": sample.asked,
                "Reply": sample.reply,
                "Expected": sample.reference,
            }
            parts += [f"{title}:\n\n{_quoted(text)}\n" for title, text in shown.items()]
    return "\n".join(parts)


def _asked(plugin: Plugin, example: Example) -> str:
    *turns, _ = plugin.conversation(example)
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _quoted(text: Any) -> str:
    shown = str(text)
    if len(shown) > LONGEST:
        shown = shown[:LONGEST] + " [...]"
    return "\n".join(f"    {line}".rstrip() for line in shown.splitlines()) or "    (nothing)"
