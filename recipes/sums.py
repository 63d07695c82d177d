"""Small sums -> conversations that teach them, and questions about those that are kept apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

ASK = ("What is {}?", "How much is {}?", "{}", "{} = ?", "Can you calculate {}?", "What's {}?")
TOO_LARGE = "I only know small sums, with numbers up to twenty."
WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen", "twenty",
)  # fmt: skip
KEPT_APART = 8  # one of so many is never taught
LARGE = 400  # so many sums of larger numbers
ROUNDS = 5  # each is taught so often: a sum is a few tokens, beside replies of a hundred


class Sum(NamedTuple):
    left: int
    sign: str
    right: int
    result: int

    @property
    def forms(self) -> list[tuple[str, str]]:
        """Each way to write it, and its result."""
        said = {"+": "plus", "-": "minus", "*": "times"}[self.sign]
        signs = (f" {self.sign} ", self.sign, f" {said} ")
        forms = [(f"{self.left}{sign}{self.right}", str(self.result)) for sign in signs]
        result = WORDS[self.result] if self.result < len(WORDS) else str(self.result)
        return [*forms, (f"{WORDS[self.left]} {said} {WORDS[self.right]}", result)]


def sums() -> Iterator[Sum]:
    """Adding and taking away up to twenty, and the multiplication table up to twelve."""
    for left in range(21):
        for right in range(21):
            yield Sum(left, "+", right, left + right)
            if right <= left:
                yield Sum(left, "-", right, left - right)
            if max(left, right) <= 12:
                yield Sum(left, "*", right, left * right)


def is_taught(one: Sum) -> bool:
    """Whether it is, or is kept apart."""
    return (3 * one.left + 5 * one.right + ord(one.sign)) % KEPT_APART != 0


def taught() -> Iterator[tuple[str, ...]]:
    """Turns: each sum in each form and wording, some behind another one, and what is too large."""
    known = list(filter(is_taught, sums()))
    for number, one in enumerate(known * ROUNDS):
        before = known[(number * 7 + 3) % len(known)].forms[0]
        for place, (form, result) in enumerate(one.forms):
            for time, ask in enumerate(ASK):
                earlier = _turns(ASK[time - 1], *before) if (place + time) % 4 == 1 else ()
                yield (*earlier, *_turns(ask, form, result))
    for number in range(LARGE):
        left, right = (21 + number * step % 979 for step in (37, 91))
        yield ASK[number % len(ASK)].format(f"{left} {'+-*'[number % 3]} {right}"), TOO_LARGE


def judged() -> Iterator[dict[str, Any]]:
    """Questions about the sums that are kept apart, for `lmapps evaluate`."""
    for one in sums():
        if not is_taught(one):
            form, result = one.forms[0]
            yield {"question": ASK[0].format(form), "answers": [f"is {result}"]}


def _turns(ask: str, form: str, result: str) -> tuple[str, str]:
    answer = f"{form} is {result}."
    return ask.format(form), answer[0].upper() + answer[1:]
