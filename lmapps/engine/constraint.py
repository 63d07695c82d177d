"""A tokenizer and a `Decoding` -> at each step, the ids with which a reply can still match.

The grammars are llguidance's; it sees a vocabulary as bytes. Shape legend: V vocabulary.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lmapps.decoding import Decoding, grammar_reason
from lmapps.errors import DecodingError
from lmapps.sentence import Sentence
from lmapps.text.tokenizer import Tokenizer

KEPT_GRAMMARS = 16
"""Compiled grammars, and why others are refused, kept for the next request with the same regex or
schema."""
MOST_LEXER_STATES = 20_000
"""Of one grammar, at about 2 kB each: what a person sends must not fill the memory."""


class Grammars:
    """Compiles what replies must match, for one tokenizer. Safe from any thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocabulary: Any = None
        self._compiled: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def constraint(self, decoding: Decoding) -> Constraint | None:
        """What holds one reply to the regex or schema; None where anything goes.

        The first call for a grammar may take a second. Raises `DecodingError` where the grammar
        is too large, or the tokenizer of a kind whose tokens are not known as bytes.
        """
        grammar = decoding.grammar
        if grammar is None:
            return None
        with self._lock:
            known = self._compiled.get(grammar)
        compiled = known or self._tried(grammar)  # who needs another one does not wait for it
        with self._lock:
            self._compiled[grammar] = compiled
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > KEPT_GRAMMARS:
                self._compiled.popitem(last=False)
            if isinstance(compiled, DecodingError):
                raise DecodingError(*compiled.args)
            matcher = compiled.deep_copy()
        return Constraint(matcher, self._tokenizer)

    def _tried(self, grammar: str) -> Any:
        """A grammar, or why there is none: to find that out may take as long."""
        try:
            return self._compile(grammar)
        except DecodingError as error:
            return error

    def _compile(self, grammar: str) -> Any:
        from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

        with self._lock:
            self._vocabulary = self._vocabulary or LLTokenizer(
                TokenizerWrapper(_Vocabulary(self._tokenizer))
            )
        limits = LLParserLimits(max_lexer_states=MOST_LEXER_STATES, verbose_errors=False)
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0, limits=limits)
        matcher.compute_bitmask()  # what is too complex shows here at the latest
        if matcher.is_error():
            raise _too_complex(matcher)
        return matcher


class Constraint:
    """Where one reply stands in its grammar."""

    def __init__(self, matcher: Any, tokenizer: Tokenizer) -> None:
        self._matcher = matcher
        self._size = tokenizer.vocab_size
        self._end_ids = sorted(tokenizer.end_ids)

    @property
    def complete(self) -> bool:
        """Whether the reply matches, and would no longer with anything more."""
        return bool(self._matcher.is_stopped() and self._matcher.is_accepting())

    def allowed(self) -> npt.NDArray[np.bool_]:
        """True for every id that may come next, (V,). Control ids are never among them, but for
        those that end a reply, once it matches. Raises `DecodingError` where there is none."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed_V = np.unpackbits(packed, bitorder="little")[: self._size].astype(np.bool_)
        if self._matcher.is_error():
            raise DecodingError(
                "the reply cannot go on: it cannot be written with this tokenizer's tokens, or "
                "the regex or schema is too complex ({reason})",
                reason=_reason(self._matcher),
            )
        allowed_V[self._end_ids] = self._matcher.is_accepting()
        if not allowed_V.any():
            raise DecodingError(
                Sentence(
                    "the reply cannot go on: no token of this tokenizer fits the regex or schema "
                    "here"
                )
            )
        return allowed_V

    def take(self, token_id: int) -> None:
        """Go on by an id that was allowed and does not end the reply. Raises `DecodingError`."""
        if not self._matcher.consume_token(token_id):
            raise _too_complex(self._matcher)


class _Vocabulary:
    """A tokenizer as llguidance wants it: the bytes of every token, and text to ids.

    One token is added behind the last, which stands for the end: ours may have none, or several.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        end = tokenizer.vocab_size
        special, pieces = tokenizer.control_ids, tokenizer.token_bytes
        self.tokens = [b"" if n in special else piece for n, piece in enumerate(pieces)] + [b""]
        self.special_token_ids = [*sorted(special), end]
        self.eos_token_id = end
        self.bos_token_id = None
        self._ids = {piece: number for number, piece in enumerate(self.tokens) if piece}
        self._longest = max(map(len, self._ids), default=1)

    def __call__(self, text: str) -> list[int]:
        """The tokenizer's own ids where they spell the text, else the longest tokens that do."""
        wanted = text.encode()
        ids = self._tokenizer.encode(text)
        if b"".join(self.tokens[number] for number in ids) == wanted:
            return ids
        return list(self._longest_first(wanted))

    def _longest_first(self, wanted: bytes) -> Iterator[int]:
        while wanted:
            sizes = range(min(self._longest, len(wanted)), 0, -1)
            size = next((size for size in sizes if wanted[:size] in self._ids), 0)
            yield self._ids.get(wanted[:size], self.eos_token_id)  # the end: cannot be spelled
            wanted = wanted[max(size, 1) :]


def _too_complex(matcher: Any) -> DecodingError:
    reason = _reason(matcher)
    return DecodingError("the regex or schema is too complex: {reason}", reason=reason)


def _reason(matcher: Any) -> str:
    return grammar_reason(matcher.get_error()) if matcher.get_error() else "no reason given"
