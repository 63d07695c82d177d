"""A document -> a cleaner one or the reason it is left out, and what tells it from others."""

from __future__ import annotations

import hashlib
import re
import unicodedata

import numpy as np
import numpy.typing as npt

from lmapps.text.recipe import SCRIPTS, Clean

_TRAILING = re.compile(r"[ \t]+(?=\n|\Z)")
_BLANK = re.compile(r"\n{3,}")

PIECE = 5
"""Words in a piece whose being in common makes two documents alike."""
OVERLAP = 13
"""Words in a row that a text must share with a held-out one (Brown et al., GPT-3, 2020, app. C)."""
BANDS, ROWS = 16, 4
"""Of the signature: two documents meet where the numbers of a band are equal."""
SAMPLE = 2000
"""Characters by which the script is told."""

_random = np.random.default_rng(0)
_PRIME = (1 << 31) - 1
_FACTORS = _random.integers(1, _PRIME, BANDS * ROWS, dtype=np.uint64)
_SHIFTS = _random.integers(0, _PRIME, BANDS * ROWS, dtype=np.uint64)

Signature = npt.NDArray[np.uint32]


def cleaned(text: str, rules: Clean) -> tuple[str, str]:
    """(text, '') or ('', why it is left out)."""
    if rules.whitespace:
        text = _BLANK.sub("\n\n", _TRAILING.sub("", text)).strip()
    if len(text) < rules.min_characters:
        return "", "too short"
    if len(text) > rules.max_characters:
        return "", "too long"
    if rules.languages and script_of(text) not in rules.languages:
        return "", "another language"
    if rules.min_letters:
        visible = [character for character in text if not character.isspace()]
        if sum(map(str.isalpha, visible)) < rules.min_letters * len(visible):
            return "", "too few letters"
    return text, ""


def script_of(text: str) -> str:
    """The language whose script most letters at the beginning are of; '' for another one."""
    counts = dict.fromkeys(SCRIPTS, 0)
    letters = [character for character in text[:SAMPLE] if character.isalpha()]
    for character in letters:
        name = unicodedata.name(character, "")
        for language, script in SCRIPTS.items():
            counts[language] += name.startswith(script)
    best = max(counts, key=lambda language: counts[language])
    return best if letters and counts[best] * 2 > len(letters) else ""


def exact_key(text: str) -> bytes:
    """16 bytes, the same for texts that differ in white space and capitals alone."""
    return hashlib.sha256(" ".join(text.lower().split()).encode()).digest()[:16]


def pieces(words: list[str], length: int, step: int = 1) -> npt.NDArray[np.uint64]:
    """A number for each run of `length` words that begins at a multiple of `step`, without repeats;
    one for a shorter text."""
    ends = max(1, len(words) - length + 1)
    runs = {" ".join(words[start : start + length]).encode() for start in range(0, ends, step)}
    numbers = b"".join(hashlib.blake2b(run, digest_size=8).digest() for run in runs)
    return np.frombuffer(numbers, dtype=np.uint64)


def signature(words: list[str]) -> Signature:
    """MinHash (Broder, 1997): the share of equal numbers in two signatures estimates the share of
    pieces in common."""
    numbers = pieces(words, PIECE)[:, None] % np.uint64(_PRIME)
    least = ((numbers * _FACTORS + _SHIFTS) % np.uint64(_PRIME)).min(axis=0)
    return least.astype(np.uint32)


def bands(signature: Signature) -> list[bytes]:
    """Keys by which alike documents meet (locality-sensitive hashing)."""
    return [
        bytes([band]) + signature[band * ROWS : (band + 1) * ROWS].tobytes()
        for band in range(BANDS)
    ]
