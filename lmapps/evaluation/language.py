"""A model and held-out tokens -> loss, token accuracy, perplexity and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lmapps.errors import DataError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.language_model import LanguageModel
from lmapps.text.batches import IGNORED, Batch
from lmapps.text.corpus import Corpus, Split, spread
from lmapps.text.sources import Document
from lmapps.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class LanguageScores:
    """How well the next token is predicted."""

    loss: float
    """Mean negative log-likelihood of a token, in nats."""
    accuracy: float
    """Share of tokens for which the most probable one is right."""
    perplexity: float
    """exp(loss)."""
    bits_per_byte: float | None
    """loss in bits, per byte of the text: comparable between tokenizers. None where the bytes
    are not known, or unknown tokens stand for some of them."""
    tokens: int
    """How many tokens were predicted."""
    unknown_rate: float | None = None
    """Share of the text's tokens that stand for what is outside the vocabulary; None where there
    are none."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def score_batches(
    model: LanguageModel, batches: Iterable[Batch], bytes_per_token: float | None = None
) -> LanguageScores:
    """Scores over every counted target of the batches."""
    was_training = model.training
    model.eval()
    loss, right, count = 0.0, 0, 0
    with torch.inference_mode():
        for batch in batches:
            batch_loss, batch_right, batch_count = _score(model, batch)
            loss, right, count = loss + batch_loss, right + batch_right, count + batch_count
    model.train(was_training)
    if not count:
        return LanguageScores(math.nan, math.nan, math.nan, None, 0)
    mean = loss / count
    bits = mean / math.log(2) / bytes_per_token if bytes_per_token else None
    return LanguageScores(mean, right / count, math.exp(min(mean, 700)), bits, count)


def window_batches(
    ids: npt.NDArray[Any], context: int, rows: int = 8, most_tokens: int | None = None
) -> Iterator[Batch]:
    """Windows of a text that do not overlap; with `most_tokens`, evenly spread over it."""
    starts = np.arange(0, max(1, len(ids) - 1), context)
    if most_tokens is not None and len(starts) * context > most_tokens:
        keep = max(1, most_tokens // context)
        starts = starts[np.linspace(0, len(starts) - 1, keep).astype(np.int64)]
    for first in range(0, len(starts), rows):
        yield _windows(ids, starts[first : first + rows], context)


def evaluate_corpus(
    model: LanguageModel,
    corpus: Corpus,
    tokenizer: Tokenizer,
    split: Split,
    most_tokens: int | None = None,
) -> LanguageScores:
    """Scores on a split, the whole or an even sample of it."""
    counts, ids = corpus.splits[split], corpus.ids(split)
    batches = window_batches(ids, model.config.context, most_tokens=most_tokens)
    scores = score_batches(model, batches, counts.bytes / max(1, counts.tokens))
    return _without_lost_bytes(scores, spread(ids, most_tokens), tokenizer)


def evaluate_documents(checkpoint: Checkpoint, documents: Iterable[Document]) -> LanguageScores:
    """Scores on texts that are not part of a corpus, such as held-out files."""
    stream, bytes_per_token = encode_documents(checkpoint, documents)
    batches = window_batches(stream, checkpoint.config.context)
    scores = score_batches(checkpoint.model, batches, bytes_per_token)
    return _without_lost_bytes(scores, stream, checkpoint.tokenizer)


def encode_documents(
    checkpoint: Checkpoint, documents: Iterable[Document]
) -> tuple[npt.NDArray[np.int64], float]:
    """Texts as one stream of ids, and how many bytes a token has."""
    ids: list[int] = []
    size = 0
    for document in documents:
        ids += [checkpoint.tokenizer.bos_id, *checkpoint.tokenizer.encode(document.text)]
        size += len(document.text.encode())
    if len(ids) < 2:
        raise DataError("there is no text to evaluate on")
    return np.array(ids, dtype=np.int64), size / len(ids)


def unknown_rate(ids: npt.NDArray[Any], tokenizer: Tokenizer) -> float | None:
    """Share of ids that stand for what is outside the vocabulary; None where there are none."""
    name = getattr(tokenizer.raw.model, "unk_token", None)
    unknown = None if name is None else tokenizer.raw.token_to_id(name)
    return None if unknown is None else float((ids == unknown).mean()) or None


def told_bits(scores: Mapping[str, Any]) -> str:
    """The bits per byte of `as_dict`, or why there are none; '' where the bytes are not known."""
    if scores.get("unknown_rate"):
        return f"no bits per byte: {100 * scores['unknown_rate']:.3g}% of the tokens are unknown"
    bits = scores.get("bits_per_byte")
    return "" if bits is None else f"{bits:.4f} bits per byte"


def _without_lost_bytes(
    scores: LanguageScores, ids: npt.NDArray[Any], tokenizer: Tokenizer
) -> LanguageScores:
    """An unknown token is easy to predict, and says nothing of the bytes that it stands for."""
    rate = unknown_rate(ids, tokenizer)
    return replace(scores, bits_per_byte=None, unknown_rate=rate) if rate else scores


def _windows(ids: npt.NDArray[Any], starts: npt.NDArray[np.int64], context: int) -> Batch:
    """Rows of `context` tokens; what is missing at the end of the text does not count."""
    inputs = torch.zeros(len(starts), context, dtype=torch.int64)
    targets = torch.full((len(starts), context), IGNORED)
    for row, start in enumerate(starts):
        piece = torch.from_numpy(ids[start : start + context + 1].astype(np.int64))
        inputs[row, : len(piece) - 1] = piece[:-1]
        targets[row, : len(piece) - 1] = piece[1:]
    return Batch(inputs, targets)


def _score(model: LanguageModel, batch: Batch) -> tuple[float, int, int]:
    """Summed loss, right guesses and count of one batch, a row at a time to bound memory."""
    ids_BT, targets_BT = batch.ids_BT.to(model.device), batch.targets_BT.to(model.device)
    hidden_BTH = model.body(model.embedding(ids_BT))
    loss, right = 0.0, 0
    for hidden_TH, targets_T in zip(hidden_BTH, targets_BT, strict=True):
        logits_TV = model.head(hidden_TH).float()
        loss += torch.nn.functional.cross_entropy(
            logits_TV, targets_T, ignore_index=IGNORED, reduction="sum"
        ).item()
        right += int((logits_TV.argmax(-1) == targets_T).sum())
    return loss, right, batch.target_count
