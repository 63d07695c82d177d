"""HumanEval's and MBPP's formats are read as they are; pass@k is that of its definition."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from lmapps.errors import DataError, SettingsError
from lmapps.evaluation.programs import Problem, pass_at_k, read_problems, score_programs
from lmapps.evaluation.sandbox import why_not

HUMAN_EVAL = {
    "task_id": "HumanEval/x",
    "prompt": "from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n"
    '    """ Sum.\n    >>> total([1, 2])\n    3\n    """\n',
    "entry_point": "total",
    "canonical_solution": "    return sum(numbers)\n",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n"
    "    assert candidate([]) == 0\n",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function to remove the first occurrence of a character.",
    "code": "def cut(s, c):\r\n    return s.replace(c, '', 1)",
    "test_list": ['assert cut("hello", "l") == "helo"', "assert sqrt(4) == 2"],
    "test_setup_code": "from math import sqrt",
    "challenge_test_list": [],
}
SANITIZED = {
    "source_file": "x", "task_id": 12, "prompt": "Write a function to add.", "code": "def a(): 0",
    "test_imports": ["import math"], "test_list": ["assert add(1, 2) == math.floor(3.5)"],
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "problems.jsonl"
    file.write_text("\n".join(map(json.dumps, [HUMAN_EVAL, MBPP, SANITIZED])))
    return file


def test_both_formats_are_read_as_they_are(file: Path) -> None:
    human, mbpp, sanitized = read_problems(file)
    assert human.instruction == HUMAN_EVAL["prompt"] and human.entry_point == "total"
    assert mbpp.name == "11" and mbpp.instruction.endswith('== "helo"')
    assert "import math" in sanitized.tests and sanitized.instruction.startswith("Write")


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_right_replies_pass_and_wrong_ones_fail(file: Path) -> None:
    problems = read_problems(file)
    whole = f"{HUMAN_EVAL['prompt']}{HUMAN_EVAL['canonical_solution']}"
    right = [
        [HUMAN_EVAL["canonical_solution"], whole, f"Here:\n```python\n{whole}```\nDone."],
        [MBPP["code"]] * 3,
        ["def add(a, b):\n    return a + b"] * 3,
    ]
    assert score_programs(problems, right, [1, 3]) == {"pass@1": 1.0, "pass@3": 1.0}
    wrong = ["", "    return 0\n", "raise SystemExit"]
    assert score_programs(problems, [wrong] * 3, [1, 3]) == {"pass@1": 0.0, "pass@3": 0.0}
    mixed = [[*right[0][:1], *wrong[:2]], wrong, wrong]
    scores = score_programs(problems, mixed, [1, 3])
    assert scores == {"pass@1": pytest.approx(1 / 9), "pass@3": pytest.approx(1 / 3)}


def test_pass_at_k_is_the_share_of_choices_with_one_that_passes() -> None:
    for samples, passed, k in itertools.product(range(1, 7), range(7), range(1, 7)):
        if passed > samples or k > samples:
            continue
        choices = list(itertools.combinations(range(samples), k))
        share = sum(min(choice) < passed for choice in choices) / len(choices)
        assert pass_at_k(samples, passed, k) == pytest.approx(share)
    with pytest.raises(SettingsError, match=r"pass@10 needs at least 10 samples .* got 5"):
        pass_at_k(5, 1, 10)


def test_a_json_file_may_be_a_list_of_problems(file: Path, tmp_path: Path) -> None:
    whole = tmp_path / "sanitized-mbpp.json"
    whole.write_text(json.dumps([HUMAN_EVAL, MBPP, SANITIZED], indent=2))
    assert read_problems(whole) == read_problems(file)
    for text, words in (
        ("[]", "must be a list of JSON objects, at least one"),
        ("[1]", "must be a list of JSON objects, at least one"),
        ("[{", "begins as a list, and cannot be read as JSON: Expecting property name"),
    ):
        whole.write_text(text)
        with pytest.raises(DataError, match=words):
            read_problems(whole)


def test_a_function_whose_name_only_begins_like_the_one_asked_for_is_not_it() -> None:
    before = "def add_all(numbers):\n    return sum(numbers)\n\n\n"
    head = 'def add(a, b):\n    """ As add_all. """\n'
    problem = Problem("x", "", before + head, "add", "check(add)\n")
    goes_on = "    return add_all([a, b])\n\n\ndef add_some():\n    pass\n"
    assert problem.program(goes_on).startswith(before + head + goes_on)
    whole = "def add(a, b):\n    return add_all([a, b])\n"
    assert problem.program(whole).startswith(before + whole)
    after = Problem("x", "", head + "    pass\n\n\n" + before, "add", "check(add)\n")
    assert after.program(whole).startswith(whole)


def test_another_format_is_named_with_its_fields(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"task_id": 7, "question": "?"}')
    with pytest.raises(DataError, match=r"problem 7: neither .* its fields: task_id, question"):
        read_problems(tmp_path / "a.jsonl")
