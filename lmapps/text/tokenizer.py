"""Documents -> a tokenizer: text to token ids and back, and a report on the vocabulary."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as RawTokenizer

from lmapps.errors import CheckpointError, DataError, SettingsError
from lmapps.text.pieces import token_bytes, writes_the_same_everywhere
from lmapps.text.storage import write_whole
from lmapps.text.streams import ByteStream, RereadStream, TextStream

TokenizerKind = Literal["bpe", "word", "character"]

END_OF_TEXT = "<|endoftext|>"
END = "<|end|>"
CONTROL_TOKENS = (END_OF_TEXT, END, "<|system|>", "<|user|>", "<|assistant|>")
UNKNOWN = "<|unknown|>"
MAX_BYTES = 100_000_000
"""The largest file of a tokenizer; those that are known have a third of it at most."""
MAX_VALUES = 5_000_000
"""The most values in one. Each takes some 90 bytes while it is read; those that are known have a
quarter of it at most."""

# A Chinese or Japanese character is a word of its own; other words keep the space before them,
# so that joining the tokens gives the text back.
_WORDS = r" ?[\p{L}\p{M}\p{N}&&[^\p{Han}\p{Hiragana}\p{Katakana}]]+|(?m:.)"
_CHARACTER = "(?m:.)"


@dataclass(frozen=True)
class VocabularyReport:
    """How well a vocabulary fits a text."""

    kind: str
    vocab_size: int
    tokens: int
    bytes: int
    bytes_per_token: float
    unknown_rate: float
    """Share of tokens that stand for a word or character outside the vocabulary."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Tokenizer:
    """Text <-> token ids, stored as a Hugging Face `tokenizer.json`.

    Control-token text such as "<|user|>" inside a text stays text: control ids come from the
    template only.
    """

    def __init__(self, raw: RawTokenizer) -> None:
        self.raw = raw
        raw.encode_special_tokens = True
        self.vocab_size: int = 1 + max(raw.get_vocab().values(), default=-1)
        """One more than the highest id: there may be ids below it that stand for nothing."""
        missing = [token for token in CONTROL_TOKENS[:2] if raw.token_to_id(token) is None]
        self.bos_id: int = -1 if missing else self.id_of(END_OF_TEXT)
        self.end_ids: frozenset[int] = (
            frozenset() if missing else frozenset({self.bos_id, self.id_of(END)})
        )

    @classmethod
    def train(
        cls, texts: Iterable[str], kind: TokenizerKind = "bpe", vocab_size: int = 8192
    ) -> Tokenizer:
        """Learn a vocabulary of at most `vocab_size` tokens (control tokens included)."""
        if kind not in get_args(TokenizerKind):
            known = ", ".join(get_args(TokenizerKind))
            raise SettingsError(f"tokenizer must be one of {known}, got {kind!r}")
        smallest = 256 + len(CONTROL_TOKENS) if kind == "bpe" else 16
        if not smallest <= vocab_size <= 2**20:
            raise SettingsError(
                f"vocab_size must be between {smallest} and {2**20} for {kind}, got {vocab_size}"
            )
        raw, trainer = _untrained(kind, vocab_size)
        raw.train_from_iterator(texts, trainer)
        bos = raw.token_to_id(END_OF_TEXT)
        raw.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, bos)]
                ),
            ]
        )
        return cls(raw)

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Ids that no text is encoded to: role markers, ends, and the like."""
        added = self.raw.get_added_tokens_decoder().items()
        return frozenset(number for number, token in added if token.special) | self.end_ids

    @property
    def kind(self) -> TokenizerKind:
        if isinstance(self.raw.model, models.BPE):
            return "bpe"
        return "character" if f'"{_CHARACTER}"' in self.raw.to_str() else "word"

    def id_of(self, token: str) -> int:
        """The id of one token as written in the vocabulary."""
        number = self.raw.token_to_id(token)
        if number is None:
            raise CheckpointError(f"the tokenizer has no token {token!r}; use another checkpoint")
        return int(number)

    def check_fits(self, rows: int, folder: Path) -> None:
        """Raises `CheckpointError` where a model of so many ids lacks one of these. It may have
        more: embeddings are often rounded up."""
        if self.vocab_size > rows:
            raise CheckpointError(
                f"{folder}: the tokenizer has ids up to {self.vocab_size - 1}, the model up to "
                f"{rows - 1}: they do not belong together; resize the model's embedding to "
                f"{self.vocab_size} rows, or give it the tokenizer that it was trained with"
            )

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without any control token."""
        return list(self.raw.encode(text, add_special_tokens=False).ids)

    def prompt_ids(self, text: str) -> list[int]:
        """Ids of the beginning of a document: the token that opens one, then the text."""
        return [*([self.bos_id] if self.bos_id >= 0 else []), *self.encode(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, on all cores."""
        encodings = self.raw.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(encoding.ids) for encoding in encodings]

    def encode_documents(
        self, texts: Sequence[str], dtype: str
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Ids of many texts one behind the other, each begun by the token that opens a document,
        and how many each has; on all cores, without the interpreter's lock for most of the time."""
        encodings = self.raw.encode_batch_fast(list(texts), add_special_tokens=False)
        lengths = np.array([len(encoding) + 1 for encoding in encodings], dtype=np.int64)
        opening = self.bos_id if self.bos_id >= 0 else min(self.end_ids)
        ids = np.empty(lengths.sum(), dtype)
        stop = 0
        for encoding, length in zip(encodings, lengths.tolist(), strict=True):
            start, stop = stop, stop + length
            ids[start] = opening
            ids[start + 1 : stop] = array("I", encoding.ids)  # numpy reads a list half as fast
        return ids, lengths

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; control tokens are left out."""
        return str(self.raw.decode(list(ids), skip_special_tokens=True))

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes that each id adds to a text, (V,). Raises `DecodingError` where that is not
        known."""
        return token_bytes(self.raw, self.vocab_size)

    @cached_property
    def _written(self) -> list[bytes] | None:
        """The bytes that each id adds to a reply, control tokens none; None where that depends on
        what stands before it."""
        if not writes_the_same_everywhere(self.raw):
            return None
        return [b"" if n in self.control_ids else piece for n, piece in enumerate(self.token_bytes)]

    def decode_stream(self) -> TextStream:
        """A decoder that is fed one id at a time."""
        return ByteStream(self._written) if self._written else RereadStream(self.decode)

    def report(self, texts: Iterable[str]) -> VocabularyReport:
        """Bytes per token and the unknown rate on some texts."""
        unknown = self.raw.token_to_id(UNKNOWN)
        tokens = size = unknowns = 0
        for batch in _batches(texts, 256):
            for text, ids in zip(batch, self.encode_batch(batch), strict=True):
                tokens += len(ids)
                size += len(text.encode())
                unknowns += ids.count(unknown) if unknown is not None else 0
        if not tokens:
            raise DataError("the text for the vocabulary report is empty")
        return VocabularyReport(
            self.kind, self.vocab_size, tokens, size, size / tokens, unknowns / tokens
        )

    def save(self, folder: Path, bos_token: str = END_OF_TEXT, eos_token: str = END) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into a checkpoint folder.

        A token that is "" is left out: transformers would add it to the vocabulary.
        """
        write_whole(folder / "tokenizer.json", self.raw.to_str(pretty=True).encode())
        tokens = {
            "bos_token": bos_token,
            "eos_token": eos_token,
            "pad_token": bos_token if self.bos_id in self.end_ids else eos_token,
        }
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{name: token for name, token in tokens.items() if token},
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
        }
        content = json.dumps(settings, indent=2) + "\n"
        write_whole(folder / "tokenizer_config.json", content.encode())

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json`. Raises `CheckpointError` where it is missing or broken."""
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(f"{folder} has no tokenizer.json: it is not a whole checkpoint")
        data = bounded(file)
        try:
            return cls(RawTokenizer.from_buffer(data))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises plain Exception, or panics
            raise CheckpointError(f"{file} cannot be read: {error}") from None


def bounded(file: Path) -> bytes:
    """A file of a tokenizer whose JSON can be read in bounded memory. Raises `CheckpointError` for
    another."""
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"{file} has {size:,} bytes, more than {MAX_BYTES:,}")
    data = file.read_bytes()
    if data.count(b",") > MAX_VALUES:
        raise CheckpointError(f"{file} has more than {MAX_VALUES:,} values: it is no tokenizer's")
    return data


def _untrained(kind: TokenizerKind, vocab_size: int) -> tuple[RawTokenizer, Any]:
    control = [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS]
    if kind == "bpe":
        raw = RawTokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        raw.decoder = decoders.ByteLevel()
        return raw, trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=control,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    raw = RawTokenizer(models.WordLevel(unk_token=UNKNOWN))
    pattern = Regex(_WORDS if kind == "word" else _CHARACTER)
    raw.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    raw.decoder = decoders.Fuse()
    return raw, trainers.WordLevelTrainer(
        vocab_size=vocab_size, special_tokens=[*control, UNKNOWN], show_progress=False
    )


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
