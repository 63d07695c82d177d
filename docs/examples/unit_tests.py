"""Write tests for a function."""

from lmapps import Code, Decoding, Passage, parses_as_python, plugin

FUNCTIONS = {
    "def double(n):\n    return 2 * n": "def test_double():\n    assert double(4) == 8",
    "def is_even(n):\n    return n % 2 == 0": (
        "def test_is_even():\n    assert is_even(2)\n    assert not is_even(3)"
    ),
    "def last(items):\n    return items[-1]": "def test_last():\n    assert last([1, 2]) == 2",
}


@plugin(
    title="Write tests",
    reply=Code("python"),
    decoding=Decoding(temperature=0.2, max_new_tokens=256),
    examples=[[next(iter(FUNCTIONS)), 2]],
)
def unit_tests(function: Passage, tests: int = 3) -> str:
    """Write pytest tests for a Python function. Read them before you trust them."""
    return f"Write {tests} pytest tests for this function.\n\n```python\n{function.strip()}\n```"


@unit_tests.dataset
def pairs():
    for function, test in FUNCTIONS.items():
        yield {"function": function, "tests": 1}, f"```python\n{test}\n```"


@unit_tests.metric
def parses(reply: str, reference: str, fields: dict) -> float:
    return parses_as_python(reply)
