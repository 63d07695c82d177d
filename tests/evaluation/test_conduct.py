"""How replies behave, questions with short answers, and replies that nobody picked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lmapps.__main__ import main
from lmapps.engine.application import Done
from lmapps.errors import DataError
from lmapps.evaluation.conduct import conduct, repeats
from lmapps.evaluation.programs import read_problems
from lmapps.evaluation.questions import Question, read_questions
from lmapps.model.checkpoint import Checkpoint

FACTS = Path(__file__).parents[2] / "recipes" / "facts.jsonl"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("one two three", False),
        ("the cat sat on the mat and the cat sat", False),
        ("the cat sat on the mat. The CAT sat, on it", True),
        ("no no no no no", True),
    ],
)
def test_four_words_in_a_row_that_come_twice_are_a_repetition(text: str, expected: bool) -> None:
    assert repeats(text) == expected


def test_conduct_counts_replies_that_end_by_themselves() -> None:
    cut, ended = Done("a b c d e a b c d", "", "length", 1, 9), Done("Yes.", "", "stop", 1, 2)
    assert conduct([cut, ended, ended, ended]) == {"ended": 0.75, "unrepeated": 0.75}
    assert conduct([]) == {}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("It is the Blue  Whale.", True),
        ("The whale is blue.", False),
        ("H2O", True),
        ("H2Oh", False),
        ("", False),
    ],
)
def test_an_answer_is_found_by_its_words_in_a_row(reply: str, expected: bool) -> None:
    assert Question("?", ("blue whale", "H2O")).is_answered_by(reply) == expected


def test_the_hundred_questions_are_distinct_and_do_not_hold_their_answers() -> None:
    questions = read_questions(FACTS)
    assert len({question.question for question in questions}) == 100
    for question in questions:
        assert not question.is_answered_by(question.question), question


def test_the_thirty_problems_are_distinct_and_call_what_they_ask_for() -> None:
    problems = read_problems(FACTS.with_name("problems.jsonl"))
    assert len({problem.instruction for problem in problems}) == 30
    for problem in problems:
        name = re.search(r"function (\w+)\(", problem.instruction)
        assert name and f"{name[1]}(" in problem.tests


def test_a_file_of_another_form_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "Why?"}\n')
    with pytest.raises(DataError, match="record 1: a question is a text `question`"):
        read_questions(tmp_path / "a.jsonl")


def test_evaluate_asks_questions_and_writes_replies(
    tiny_checkpoint: Callable[[str], Checkpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_checkpoint("gru").save(tmp_path / "tiny")
    questions = [{"question": "A cat?", "answers": ["a very rare word"]}] * 3
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, questions)))
    record = {"instruction": "Add.", "code": "def add(a, b):\n    return a + b\n"}
    (tmp_path / "code.jsonl").write_text("\n".join([json.dumps(record)] * 3))
    words = ["evaluate", str(tmp_path / "tiny"), "--questions", str(tmp_path / "q.jsonl")]
    words += [
        "--apps",
        "code",
        "--data",
        f"code={tmp_path / 'code.jsonl'}",
        "--limit",
        "2",
        "--weights",
        "int8",
    ]
    assert main([*words, "--write", str(tmp_path / "samples.md"), "--json"]) == 0
    (scores,) = json.loads(capsys.readouterr().out).values()
    assert scores["questions"]["examples"] == 3 and scores["questions"]["answered"] == 0
    assert 0 <= scores["questions"]["ended"] <= 1 and 0 <= scores["code"]["unrepeated"] <= 1
    page = (tmp_path / "samples.md").read_text()
    assert len(re.findall("^### code", page, re.M)) == 3 and "return a + b" in page
    assert main(["evaluate", str(tmp_path / "tiny"), "--write", "x", "--questions", "q"]) == 2
