"""A tokenizer -> the bytes that each of its ids adds to a text."""

from __future__ import annotations

import json

from tokenizers import Tokenizer as RawTokenizer

from lmapps.errors import DecodingError


def writes_the_same_everywhere(raw: RawTokenizer) -> bool:
    """Whether a text is just what its ids write, one after the other: others write the first one
    in another way, or mark each byte that is no UTF-8."""
    return _decoders(raw) <= {"ByteLevel", "Fuse"}


def token_bytes(raw: RawTokenizer, vocab_size: int) -> list[bytes]:
    """The bytes that each id adds to a text, (V,). Raises `DecodingError` where a tokenizer's
    decoder is of a kind that joins tokens in another way than one after the other."""
    kinds = _decoders(raw)
    known = {"ByteLevel", "Fuse", "Metaspace", "ByteFallback", "Replace", "Strip"}
    if not kinds or kinds - known:
        raise DecodingError(
            f"it is not known what the tokens of this checkpoint write: its tokenizer's decoder "
            f"is {', '.join(sorted(kinds - known)) or 'empty'}; known: {', '.join(sorted(known))}"
        )
    names = [raw.id_to_token(number) or "" for number in range(vocab_size)]
    if "ByteLevel" in kinds:
        return [_byte_level(name) for name in names]
    has_spaces = bool(kinds & {"Metaspace", "Replace"})
    return [_with_spaces(name, has_spaces, "ByteFallback" in kinds) for name in names]


def _decoders(raw: RawTokenizer) -> set[str]:
    """The kinds of what a tokenizer's decoder is made of."""
    decoder = json.loads(raw.to_str())["decoder"] or {"type": "none"}
    parts = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    return {part["type"] for part in parts}


def _byte_level(name: str) -> bytes:
    """GPT-2's way: every byte is written as a printable character."""
    try:
        return bytes(_BYTE_OF[character] for character in name)
    except KeyError:  # an added token, which is written as it is
        return name.encode()


def _with_spaces(name: str, has_spaces: bool, byte_fallback: bool) -> bytes:
    """SentencePiece's way: a space is U+2581, and a byte may be written as <0x0A>."""
    if byte_fallback and len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return bytes.fromhex(name[3:5])
    return (name.replace("\u2581", " ") if has_spaces else name).encode()


def _byte_characters() -> dict[str, int]:
    """The characters of byte-level BPE: printable bytes are themselves, others follow U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    moved = {chr(0x100 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | moved


_BYTE_OF = _byte_characters()
