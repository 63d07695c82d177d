"""Numbers a person chose -> `Decoding`: how the next token is picked, validated once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from lmapps.errors import DecodingError

# One way to write a value: free white space would let a weak model write nothing else.
_JSON_FORM: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
MAX_LOGPROBS = 20
MAX_STOPS, MAX_STOP_LENGTH = 16, 1000
MAX_BIASES = 1024
MAX_GRAMMAR = 100_000
"""The longest regex or schema, in characters."""


@dataclass(frozen=True)
class Decoding:
    """How the engine turns logits into the next token.

    They apply in this order: logit bias, regex or schema, penalties, temperature, top-k, top-p,
    min-p. A value outside its range raises `DecodingError`.
    """

    temperature: float = 0.8
    """0 = greedy: always the most probable token. Up to 2; higher is more surprising."""
    top_k: int = 0
    """Keep only the k most probable tokens; 0 = all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches p (nucleus sampling)."""
    min_p: float = 0.0
    """Drop tokens less probable than this share of the most probable one."""
    repetition_penalty: float = 1.0
    """Divide (or, below zero, multiply) the logits of tokens already seen; 1 = off."""
    presence_penalty: float = 0.0
    """Subtract this once from the logit of each token already generated."""
    frequency_penalty: float = 0.0
    """Subtract this from a token's logit for each time it was generated."""
    no_repeat_ngram: int = 0
    """Never generate the same run of this many tokens twice in a reply; 0 = off."""
    max_new_tokens: int = 256
    """The longest reply, in tokens."""
    stop: tuple[str, ...] = ()
    """The reply ends before the first of these strings."""
    seed: int | None = None
    """The same seed gives the same text, whoever else is answered meanwhile; None = a new one for
    each request. But for rounding: numbers of larger batches differ in their last bits, so that
    another token may come, and another text after it, where two are as good as equal: two logits
    within 1e-4 (in float32), or the draw and the boundary between two ids."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits of these ids, from -100 to 100; a mapping is taken too."""
    logprobs: int | None = None
    """Tell each token's log-probability, and those of so many of the most probable ones, as the
    model has them before anything above changes them; None = tell none."""
    regex: str | None = None
    """The whole reply matches this regular expression (without look-around)."""
    json_schema: str | None = None
    """The whole reply is JSON of this schema, which is given as JSON text, in the spacing of
    Python's `json.dumps`. Give a regex or a schema, not both."""

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0, 2)
        _integer("top_k", self.top_k, 0, 1_000_000)
        _number("top_p", self.top_p, 0, 1, open_below=True)
        _number("min_p", self.min_p, 0, 1)
        _number("repetition_penalty", self.repetition_penalty, 0.1, 10)
        _number("presence_penalty", self.presence_penalty, -2, 2)
        _number("frequency_penalty", self.frequency_penalty, -2, 2)
        _integer("no_repeat_ngram", self.no_repeat_ngram, 0, 64)
        _integer("max_new_tokens", self.max_new_tokens, 1, 1_000_000)
        if self.seed is not None:
            _integer("seed", self.seed, 0, 2**63 - 1)
        object.__setattr__(self, "stop", _stop_strings(self.stop))
        object.__setattr__(self, "logit_bias", _bias(self.logit_bias))
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        _check_grammar(self)

    @property
    def grammar(self) -> str | None:
        """What the whole reply must match, in llguidance's form; None = anything."""
        return _grammar_of(self.regex, self.json_schema)

    def replace(self, /, **changes: Any) -> Decoding:
        """A copy with some values changed; an unknown name raises `DecodingError`."""
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise DecodingError(f"unknown decoding setting {name!r}; known: {', '.join(known)}")
        return replace(self, **changes)


def _number(name: str, value: object, low: float, high: float, *, open_below: bool = False) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    above_low = not (open_below and value == low)
    if is_number and low <= value <= high and above_low:  # type: ignore  # no NaN, no infinity
        return
    raise DecodingError(
        "{name} must be above {low:g} and at most {high:g}, got {value!r}"
        if open_below
        else "{name} must be between {low:g} and {high:g}, got {value!r}",
        name=name,
        low=low,
        high=high,
        value=value,
    )


def _integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return
    raise DecodingError(
        "{name} must be a whole number between {low} and {high}, got {value!r}",
        name=name,
        low=low,
        high=high,
        value=value,
    )


def _stop_strings(stop: object) -> tuple[str, ...]:
    """One string or several -> a tuple of non-empty strings."""
    strings = (stop,) if isinstance(stop, str) else stop
    if isinstance(strings, Iterable) and not isinstance(strings, Mapping):
        strings = tuple(strings)
        if all(isinstance(string, str) and string for string in strings):
            if len(strings) <= MAX_STOPS and all(len(s) <= MAX_STOP_LENGTH for s in strings):
                return strings
            raise DecodingError(
                f"stop takes at most {MAX_STOPS} texts of at most {MAX_STOP_LENGTH} characters, "
                f"got {len(strings)}, the longest of {max(map(len, strings))}"
            )
    raise DecodingError(f"stop must be a text or a list of texts, none of them empty, got {stop!r}")


def _bias(bias: object) -> tuple[tuple[int, float], ...]:
    """A mapping, or pairs, of ids and numbers -> pairs in the order of the ids.

    In JSON the ids of a mapping are texts.
    """
    items = bias.items() if isinstance(bias, Mapping) else bias
    is_list = isinstance(items, Iterable) and not isinstance(items, str)
    pairs: list[Any] = list(items) if is_list else [None]  # type: ignore[call-overload]
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise DecodingError(f"logit_bias must map token ids to numbers, got {bias!r}")
    if len(pairs) > MAX_BIASES:
        raise DecodingError(f"logit_bias takes at most {MAX_BIASES} ids, got {len(pairs)}")
    checked = {}
    for token_id, value in pairs:
        if isinstance(token_id, str) and re.fullmatch("[0-9]{1,9}", token_id):
            token_id = int(token_id)
        _integer("an id in logit_bias", token_id, 0, 2**31 - 1)
        _number(f"logit_bias of id {token_id}", value, -100, 100)
        checked[token_id] = value
    return tuple(sorted(checked.items()))


def _check_grammar(decoding: Decoding) -> None:
    """Raises `DecodingError` with the reason where the regex or the schema cannot be used."""
    names = [name for name in ("regex", "json_schema") if getattr(decoding, name) is not None]
    if len(names) > 1:
        raise DecodingError("give regex or json_schema, not both: a reply matches one of them")
    for name in names:
        value = getattr(decoding, name)
        if not isinstance(value, str) or not value:
            raise DecodingError(f"{name} must be a text that is not empty, got {value!r}")
        if len(value) > MAX_GRAMMAR:
            raise DecodingError(
                f"{name} takes at most {MAX_GRAMMAR:,} characters, got {len(value):,}"
            )
        if reason := _grammar_fault(decoding.regex, decoding.json_schema):
            raise DecodingError(f"{name} cannot be used: {reason}, got {value[:80]!r}")


def _grammar_of(regex: str | None, json_schema: str | None) -> str | None:
    if regex is None and json_schema is None:
        return None
    from llguidance import LLMatcher

    if regex is not None:
        return LLMatcher.grammar_from_regex(regex)
    return LLMatcher.grammar_from_json_schema(json_schema or "", overrides=_JSON_FORM)


@lru_cache(64)  # the same schema comes with every request, and a copy with another seed
def _grammar_fault(regex: str | None, json_schema: str | None) -> str | None:
    """Why a reply cannot be held to the regex or schema; None where it can."""
    from llguidance import LLMatcher

    try:
        if json_schema and not isinstance(json.loads(json_schema), dict):
            return "a schema is a JSON object"
        grammar = _grammar_of(regex, json_schema) or ""
        failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    except (ValueError, RecursionError) as error:
        return str(error)
    return grammar_reason(messages[0]) if failed else None


def grammar_reason(message: str) -> str:
    """The sentence in a message of llguidance's, which quotes and points over several lines."""
    lines = message.strip().splitlines()
    named = [line for line in lines if line.lower().startswith("error: ")]
    return (named or lines)[0].removeprefix("error: ").removeprefix("Error: ")[:200]
