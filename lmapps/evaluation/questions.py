"""Questions with short answers -> the share of replies that hold one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmapps.engine.engine import Engine
from lmapps.errors import DataError
from lmapps.evaluation.conduct import conduct
from lmapps.evaluation.tasks import ask
from lmapps.plugin import Plugin
from lmapps.text.sources import read_records
from lmapps.words import words_of


@dataclass(frozen=True)
class Question:
    """What is asked, and the answers of which one is enough."""

    question: str
    answers: tuple[str, ...]

    def is_answered_by(self, reply: str) -> bool:
        """Whether the words of an answer stand in the reply, in a row, in any case of letters."""
        said = f" {' '.join(words_of(reply))} "
        return any(f" {' '.join(words_of(answer))} " in said for answer in self.answers)


def read_questions(file: str | Path) -> list[Question]:
    """A JSON Lines file with `question` and `answers`. Raises `DataError` for anything else."""
    found = []
    for number, record in enumerate(read_records(Path(file)), start=1):
        question, answers = record.get("question"), record.get("answers")
        if not isinstance(question, str) or not isinstance(answers, list) or not answers:
            raise DataError(
                f"{file}, record {number}: a question is a text `question` and a list `answers`"
            )
        found.append(Question(question, tuple(map(str, answers))))
    if not found:
        raise DataError(f"{file} holds no questions")
    return found


def score_questions(
    plugin: Plugin, engine: Engine, questions: Sequence[Question]
) -> dict[str, Any]:
    """The share answered, and how the replies behave.

    Greedy, and without the plugin's guard against repetition, which would hide it. The question
    is the plugin's first field.
    """
    decoding = plugin.decoding.replace(temperature=0.0, no_repeat_ngram=0)
    field = plugin.fields[0].name
    requests = [({field: question.question}, decoding) for question in questions]
    replies = ask(plugin, engine, requests)
    right = [
        done is not None and question.is_answered_by(done.reply)
        for question, done in zip(questions, replies, strict=True)
    ]
    given = [done for done in replies if done is not None]
    return {"examples": len(questions), "answered": sum(right) / len(right), **conduct(given)}
