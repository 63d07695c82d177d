"""Code: a function for an instruction."""

from lmapps import Code, Decoding, Passage, parses_as_python, plugin

LONGEST = 600  # characters: about what fits in max_new_tokens below


@plugin(
    title="Code",
    decoding=Decoding(temperature=0.3, top_p=0.9, no_repeat_ngram=20, max_new_tokens=256),
    reply=Code("python"),
    examples=[
        ["Write a function to find the maximum of two numbers.", "Python"],
        ["Return the sum of a list of numbers.\n\ndef total(numbers):", "Python"],
        [
            "Check whether a text is a palindrome.\n\ndef is_palindrome(text: str) -> bool:",
            "Python",
        ],
    ],
)
def code(instruction: Passage, language: str = "Python") -> str:
    """Write code for an instruction. Read it before you run it: it is often wrong."""
    return f"Write {language.strip()} code.\n{instruction}"


@code.dataset(fields=("instruction", "code"))
def functions(record):
    if len(record["code"]) > LONGEST:
        return
    reply = f"```python\n{record['code'].strip()}\n```"
    full = record["instruction"]
    first_line = full.partition("\n")[0]  # without the signature or test that follows
    for instruction in dict.fromkeys([full, first_line]):
        yield {"instruction": instruction}, reply


@code.metric
def parses(reply: str, reference: str, fields: dict) -> float:
    return parses_as_python(reply)
