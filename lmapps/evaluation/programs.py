"""HumanEval- and MBPP-format files, and replies with code -> how many pass their tests."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmapps.errors import DataError, SettingsError
from lmapps.evaluation.sandbox import Limits, run_python
from lmapps.replies import code_of
from lmapps.small_file import small_json
from lmapps.text.sources import read_records

SIDE_BY_SIDE = 2
"""Programs at the same time."""


@dataclass(frozen=True)
class Problem:
    """What to program, and how the result is tested."""

    name: str
    instruction: str
    """For the model: HumanEval's prompt; MBPP's text and its first test."""
    beginning: str
    """Code that a reply goes on from, where it does not repeat it; may be empty."""
    entry_point: str
    """The function that must be there; may be empty."""
    tests: str
    """Code that raises where the reply is wrong."""

    def program(self, reply: str) -> str:
        """The reply's code with its tests."""
        code = code_of(reply)
        definition = re.compile(rf"\bdef\s+{re.escape(self.entry_point)}\b")
        if self.entry_point and not definition.search(code):
            code = self.beginning + code
        elif self.beginning:  # imports and helpers that stand before the function
            starts = [found.start() for found in definition.finditer(self.beginning)]
            code = self.beginning[: starts[-1] if starts else None] + code
        return f"{code}\n\n{self.tests}"


def read_problems(file: str | Path) -> list[Problem]:
    """The problems of a JSON Lines file, or of a JSON file that is a list of them. Raises
    `DataError` for a record of another format.

    HumanEval (Chen et al., 2021): task_id, prompt, entry_point, test. MBPP (Austin et al., 2021):
    task_id, text (in its sanitized part: prompt), test_list and, if there are any, test_setup_code
    or test_imports.
    """
    return [_problem(record, file) for record in _records(Path(file))]


def ks_of(samples: int) -> list[int]:
    """The k of pass@k that so many samples of a problem can tell."""
    return [k for k in (1, 10, 100) if k <= samples]


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance that one of k samples passes, without bias (Chen et al., 2021, equation 1)."""
    if k > samples:
        raise SettingsError(f"pass@{k} needs at least {k} samples of each problem, got {samples}")
    if samples - passed < k:
        return 1.0
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def score_programs(
    problems: Sequence[Problem], replies: Sequence[Sequence[str]], ks: Sequence[int]
) -> dict[str, float]:
    """`replies[n]` are the samples for problem n -> `pass@k` for each k, as means.

    Raises `NoSandbox` where programs cannot be confined.
    """
    work = [(p, reply) for p, some in zip(problems, replies, strict=True) for reply in some]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        outcomes = threads.map(lambda pair: run_python(pair[0].program(pair[1]), Limits()), work)
        passed = iter([outcome.passed for outcome in outcomes])
    counts = [(len(some), sum(next(passed) for _ in some)) for some in replies]
    return {
        f"pass@{k}": sum(pass_at_k(n, right, k) for n, right in counts) / len(counts) for k in ks
    }


def _records(file: Path) -> Iterable[Mapping[str, Any]]:
    """The objects of either kind of file."""
    if not _is_list(file):
        return read_records(file)
    try:
        records = small_json(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} begins as a list, and cannot be read as JSON: {error}") from None
    if not records or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{file} must be a list of JSON objects, at least one")
    return records


def _is_list(file: Path) -> bool:
    """Whether it begins with a bracket."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(1000).lstrip().startswith(b"[")


def _problem(record: Mapping[str, Any], file: str | Path) -> Problem:
    name = str(record.get("task_id", "?"))
    if {"prompt", "entry_point", "test"} <= record.keys():
        entry = str(record["entry_point"])
        prompt = str(record["prompt"])
        return Problem(name, prompt, prompt, entry, f"{record['test']}\n\ncheck({entry})\n")
    asked = record.get("text", record.get("prompt"))
    if asked is not None and isinstance(record.get("test_list"), list) and record["test_list"]:
        imports = record.get("test_imports", record.get("test_setup_code")) or ""
        before = "\n".join(imports) if isinstance(imports, list) else str(imports)
        tests = [str(test) for test in record["test_list"]]
        instruction = f"{asked}\n\n{tests[0]}"
        return Problem(name, instruction, "", "", "\n".join([before, *tests]) + "\n")
    raise DataError(
        f"{file}, problem {name}: neither of HumanEval's format (prompt, entry_point, test) nor "
        f"of MBPP's (text or prompt, test_list); its fields: {', '.join(record)}"
    )
