"""Ids, one at a time -> the text that they have together, whatever they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models

from lmapps.text.streams import ByteStream, RereadStream, TextStream
from lmapps.text.tokenizer import CONTROL_TOKENS, Tokenizer

TEXT = "The cat sat on the mat: 今天天气很好 \U0001f600\n" * 20


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    if kind in ("bpe", "word", "character"):
        return Tokenizer.train([TEXT], kind, 300)  # type: ignore[arg-type]
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581the", "\u2581", "cat"]
    raw = RawTokenizer(models.BPE({name: n for n, name in enumerate(names)}, []))
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    raw.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    return Tokenizer(raw)


def streamed(stream: TextStream, ids: list[int]) -> str:
    return "".join(map(stream.step, ids))


@pytest.mark.parametrize("kind", ["bpe", "word", "character", "sentencepiece"])
@given(draw=st.data())
def test_a_stream_gives_the_text_of_any_ids_but_half_a_character_at_its_end(
    kind: str, draw: st.DataObject
) -> None:
    tokenizer = tokenizer_of(kind)
    # In this library's decoder of bytes a broken one breaks the whole ones beside it as well.
    first = 257 if kind == "sentencepiece" else 0
    ids = draw.draw(st.lists(st.integers(first, tokenizer.vocab_size - 1), max_size=30))
    whole, text = tokenizer.decode(ids), streamed(tokenizer.decode_stream(), ids)
    assert whole.startswith(text)
    assert set(whole[len(text) :]) <= {"\ufffd"}


@pytest.mark.parametrize(
    ("kind", "stream"),
    [
        ("bpe", ByteStream),
        ("word", ByteStream),
        ("character", ByteStream),
        ("sentencepiece", RereadStream),
    ],
)
def test_a_table_serves_where_an_id_writes_the_same_everywhere(
    kind: str, stream: Callable[..., TextStream]
) -> None:
    assert type(tokenizer_of(kind).decode_stream()) is stream


def test_a_character_comes_with_its_last_byte() -> None:
    tokenizer = tokenizer_of("bpe")
    cat, *rest = (tokenizer.token_bytes.index(bytes([byte])) for byte in "x\U0001f600".encode())
    stream = tokenizer.decode_stream()
    assert [stream.step(number) for number in (*rest, cat)] == ["", "", "", "\U0001f600", "x"]
    broken = tokenizer.decode_stream()
    assert [broken.step(number) for number in (*rest[:2], cat)] == ["", "", "\ufffdx"]


@pytest.mark.parametrize("kind", ["bpe", "word", "character"])
def test_control_tokens_write_nothing(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = [tokenizer.id_of(token) for token in CONTROL_TOKENS]
    assert streamed(tokenizer.decode_stream(), ids) == ""
