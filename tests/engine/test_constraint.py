"""Replies held to a regex or a JSON schema, with every tokenizer, each to its own in a batch."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers

from lmapps.decoding import Decoding
from lmapps.engine.constraint import Grammars
from lmapps.engine.engine import Engine
from lmapps.errors import DecodingError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import BODIES, ModelConfig
from lmapps.model.language_model import LanguageModel
from lmapps.text.template import Template
from lmapps.text.tokenizer import Tokenizer

TEXT = (
    'The cat sat. {"name": "Ann", "age": 42, "tags": [true, false, null]} 今天 a-z dogs 01356789\n'
    * 20
)
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"enum": ["cat", "dog", "天"]},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
            "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }
)
DATE = r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9]"


def checkpoint_of(tokenizer: Tokenizer) -> Checkpoint:
    torch.manual_seed(1)
    shape: dict[str, Any] = {"embed_size": 32, "hidden_size": 32, "context": 128}
    config = ModelConfig(body="gru", vocab_size=tokenizer.vocab_size, num_layers=1, **shape)
    return Checkpoint(LanguageModel(config).eval(), tokenizer, Template(tokenizer))


def sentencepiece_like() -> Tokenizer:
    """As Llama 2 has it: spaces are U+2581, unknown bytes are <0x..>, no control token of ours."""
    letters = [*'catdogsne":,{}[]()-0123456789abcdefghijklmnopqrstuvwxyz', "\u2581", "\u2581the"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += dict.fromkeys(letter for letter in letters)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    raw = RawTokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Replace(" ", "\u2581")
    raw.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    raw.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer = Tokenizer(raw)
    tokenizer.end_ids = frozenset({2})
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bpe": lambda: Tokenizer.train([TEXT], "bpe", 300),
    "word": lambda: Tokenizer.train([TEXT], "word", 400),
    "character": lambda: Tokenizer.train([TEXT], "character", 400),
    "foreign": sentencepiece_like,
}


@pytest.fixture(scope="module", params=["bpe", "character", "foreign"])
def engine(request: pytest.FixtureRequest) -> Any:
    with Engine(checkpoint_of(TOKENIZERS[request.param]()), slots=4) as engine:
        yield engine


def reply_of(engine: Engine, **settings: Any) -> Any:
    return engine.generate([5, 6], Decoding(max_new_tokens=120, **settings))


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_reply_matches_its_regex_from_end_to_end(engine: Engine, temperature: float) -> None:
    for seed in range(5):
        regex = "(19|20)[0-9]{2}" if seed % 2 else r"(cat|dog)s? [a-e]{3,6}"
        reply = reply_of(engine, regex=regex, temperature=temperature, seed=seed)
        assert reply.finish == "stop"
        assert re.fullmatch(regex, reply.text), reply.text


def test_a_reply_is_json_of_its_schema(engine: Engine) -> None:
    for seed in range(5):
        reply = reply_of(engine, json_schema=SCHEMA, temperature=1.5, seed=seed)
        assert reply.finish == "stop"
        value = json.loads(reply.text)
        assert list(value) == ["name", "age", "tags"]
        assert value["name"] in ("cat", "dog", "天") and 0 <= value["age"] <= 99
        assert len(value["tags"]) <= 2 and all(type(tag) is bool for tag in value["tags"])
        assert reply.text == json.dumps(value, ensure_ascii=False)


def test_a_word_tokenizer_writes_what_its_words_can_spell() -> None:
    with Engine(checkpoint_of(TOKENIZERS["word"]())) as engine:
        reply = reply_of(engine, regex=r"The( cat| sat){1,4}\.", temperature=1.5, seed=3)
        assert re.fullmatch(r"The( cat| sat){1,4}\.", reply.text)
        with pytest.raises(DecodingError, match="the reply cannot go on: no token"):
            reply_of(engine, regex="The (zebra|yak)")
        assert reply_of(engine, regex="The cat").text == "The cat", "the engine goes on"


def test_each_request_of_a_batch_is_held_to_its_own(engine: Engine) -> None:
    asked: list[dict[str, Any]] = [
        {"regex": "[ab]{30}"}, {"json_schema": SCHEMA}, {}, {"regex": "(dog ){7}"},
    ]  # fmt: skip

    async def together() -> list[Any]:
        return await asyncio.gather(
            *(engine.complete([5, 6], Decoding(seed=1, max_new_tokens=99, **one)) for one in asked)
        )

    letters, value, free, dogs = asyncio.run(together())
    assert re.fullmatch("[ab]{30}", letters.text)
    assert set(json.loads(value.text)) == {"name", "age", "tags"}
    assert dogs.text == "dog " * 7
    assert [one.finish for one in (letters, value, dogs)] == ["stop"] * 3
    assert not re.fullmatch("[ab]*|(dog ?)*", free.text)


def test_a_reply_cut_in_the_middle_says_length(engine: Engine) -> None:
    reply = engine.generate([5, 6], Decoding(regex="[ab]{50}", max_new_tokens=5))
    assert reply.finish == "length" and re.fullmatch("[ab]+", reply.text)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_control_tokens_are_never_allowed_but_the_end_where_it_fits(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    added = tokenizer.raw.get_added_tokens_decoder().items()
    special = [number for number, token in added if token.special]
    constraint = Grammars(tokenizer).constraint(Decoding(regex="(?s:.*)"))
    assert constraint is not None
    allowed = np.flatnonzero(constraint.allowed()).tolist()
    assert set(allowed) & set(special) == set(tokenizer.end_ids)
    assert len(allowed) > 20
    constraint = Grammars(tokenizer).constraint(Decoding(regex=".+"))
    assert constraint is not None and not set(np.flatnonzero(constraint.allowed())) & set(special)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_bytes_of_tokens_spell_the_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    pieces = tokenizer.token_bytes
    text = "The cat sat" if name == "word" else "the cat sat on 今天 {1}"
    ids = tokenizer.encode(text) if name != "character" else tokenizer.encode("The cat 今天")
    assert b"".join(pieces[number] for number in ids).decode() == tokenizer.decode(ids)


@pytest.mark.parametrize("body", BODIES)
def test_every_body_is_held_also_where_no_end_token_is_known(
    body: str, endless_checkpoint: Callable[[str], Checkpoint]
) -> None:
    with Engine(endless_checkpoint(body)) as engine:
        reply = reply_of(engine, regex="cat|dog", seed=2)
        assert reply.text in ("cat", "dog") and reply.finish == "stop"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"regex": "("}, r"regex cannot be used: unclosed group, got '\('"),
        ({"regex": "(?=a)b"}, "regex cannot be used: look-around.* is not supported"),
        ({"regex": ""}, "regex must be a text that is not empty, got ''"),
        ({"regex": 3}, "regex must be a text that is not empty, got 3"),
        ({"json_schema": "{"}, "json_schema cannot be used: .*got '{'"),
        ({"json_schema": "[]"}, "json_schema cannot be used: a schema is a JSON object"),
        ({"json_schema": '{"type": "robot"}'}, "json_schema cannot be used: Invalid type: robot"),
        ({"json_schema": '{"uniqueItems": true}'}, 'Unimplemented keys: .*"uniqueItems"'),
        ({"json_schema": '{"$ref": "http://a.test/b"}'}, "json_schema cannot be used: Resource"),
        ({"json_schema": "[" * 99_000}, "json_schema cannot be used: "),
        ({"regex": "a" * 100_001}, "regex takes at most 100,000 characters, got 100,001"),
        ({"json_schema": {"type": "object"}}, "json_schema must be a text"),
        ({"regex": "a", "json_schema": "{}"}, "give regex or json_schema, not both"),
    ],
)
def test_what_cannot_be_used_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DecodingError, match=words):
        Decoding(**settings)


def test_a_grammar_that_is_too_large_is_refused_and_harms_nobody(engine: Engine) -> None:
    with pytest.raises(DecodingError, match="too complex"):
        reply_of(engine, regex="((a{1000}){1000}|b){1000}")
    assert reply_of(engine, regex="cat").text == "cat"


def test_why_a_grammar_is_refused_is_not_found_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmapps.engine.constraint.MOST_LEXER_STATES", 3)
    grammars, tried = Grammars(TOKENIZERS["bpe"]()), list[str]()
    compiled = grammars._compile
    monkeypatch.setattr(
        grammars, "_compile", lambda grammar: tried.append(grammar) or compiled(grammar)
    )
    for _ in range(3):
        with pytest.raises(DecodingError, match=r"too complex: .*too many states"):
            grammars.constraint(Decoding(regex="cat|dog"))
    assert len(tried) == 1


def test_who_asks_takes_turns_with_others_where_grammars_are_compiled(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = list[Any]()

    async def noted(work: Callable[[], Any], user: Any = None) -> Any:
        users.append(user)
        return work()

    monkeypatch.setattr("lmapps.engine.engine.in_time", noted)
    asyncio.run(engine.complete([5, 6], Decoding(regex="cat"), "somebody"))
    assert users == ["somebody"]


def test_bytes_that_are_no_text_do_not_stop_a_stream() -> None:
    tokenizer = sentencepiece_like()
    byte = {name: tokenizer.id_of(f"<0x{name}>") for name in ("E4", "BB", "8A")}
    ids = [byte["E4"], byte["BB"], tokenizer.id_of("d"), *byte.values(), tokenizer.id_of("o")]
    stream = tokenizer.decode_stream()
    assert [stream.step(number) for number in ids] == [
        "",
        "",
        "\ufffd\ufffdd",
        "",
        "",
        "今",
        "o",
    ]


def test_a_grammar_is_compiled_outside_of_the_event_loop(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    compiled = engine._grammars.constraint
    monkeypatch.setattr(
        engine._grammars,
        "constraint",
        lambda decoding: threads.append(threading.current_thread()) or compiled(decoding),
    )
    reply = asyncio.run(engine.complete([5, 6], Decoding(regex="cat|dog")))
    assert reply.text in ("cat", "dog")
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


def test_a_tokenizer_of_an_unknown_kind_is_refused_by_name() -> None:
    tokenizer = TOKENIZERS["word"]()
    tokenizer.raw.decoder = decoders.WordPiece()
    tokenizer.raw.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(DecodingError, match="decoder is WordPiece"):
        Grammars(tokenizer).constraint(Decoding(regex="a"))
