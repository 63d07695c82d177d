"""Loss, accuracy, perplexity and bits per byte against their definitions, a token at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmapps.errors import DataError
from lmapps.evaluation.baselines import trigram_on, trigram_scores
from lmapps.evaluation.language import (
    encode_documents,
    evaluate_corpus,
    evaluate_documents,
    score_batches,
    told_bits,
    window_batches,
)
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import ModelConfig
from lmapps.model.language_model import LanguageModel
from lmapps.text.batches import IGNORED, Batch
from lmapps.text.corpus import build_corpus
from lmapps.text.sources import Document
from lmapps.text.template import Template
from lmapps.text.tokenizer import Tokenizer

TEXT = "The dog ran after the cat, 今天天气很好, and the cat ran up a tree. " * 16


@pytest.fixture(params=["transformer", "lstm"])
def checkpoint(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Checkpoint]
) -> Checkpoint:
    return tiny_checkpoint(request.param)


def token_by_token(checkpoint: Checkpoint, ids: list[int]) -> tuple[list[float], list[bool]]:
    """Log-probability of each next token, and whether it was the most probable one."""
    logs, right = [], []
    context = checkpoint.config.context
    for place in range(1, len(ids)):
        first = (place - 1) // context * context
        with torch.inference_mode():
            logits = checkpoint.model(torch.tensor([ids[first:place]]))[0, -1]
        logs.append(float(logits.log_softmax(-1)[ids[place]]))
        right.append(int(logits.argmax()) == ids[place])
    return logs, right


def test_scores_are_those_of_the_definition(checkpoint: Checkpoint) -> None:
    ids = [checkpoint.tokenizer.bos_id, *checkpoint.tokenizer.encode(TEXT)]
    assert len(ids) > 2 * checkpoint.config.context
    logs, right = token_by_token(checkpoint, ids)
    scores = evaluate_documents(checkpoint, [Document(TEXT, "a text")])
    assert scores.tokens == len(ids) - 1
    assert scores.loss == pytest.approx(-sum(logs) / len(logs), rel=1e-4)
    assert scores.accuracy == pytest.approx(sum(right) / len(right), abs=1.5 / len(right))
    assert scores.perplexity == pytest.approx(math.exp(scores.loss))
    assert scores.bits_per_byte is not None
    bits = scores.loss / math.log(2) * len(ids) / len(TEXT.encode())
    assert scores.bits_per_byte == pytest.approx(bits)


@pytest.mark.parametrize("kind", ["word", "character"])
def test_text_lost_as_unknown_tokens_gives_no_bits_per_byte(kind: Any, tmp_path: Path) -> None:
    tokenizer = Tokenizer.train([TEXT], kind, 16)
    config = ModelConfig.from_size("tiny", body="gru", vocab_size=16, context=64)
    model = LanguageModel(config.changed(num_layers=1)).eval()
    checkpoint = Checkpoint(model, tokenizer, Template(tokenizer))
    (tmp_path / "a.txt").write_text(TEXT)
    corpus = build_corpus([tmp_path / "a.txt"], tokenizer, tmp_path / "tokens")
    documents = [Document(TEXT, "a text")]
    lost = tokenizer.report([TEXT]).unknown_rate
    for scores in (
        evaluate_documents(checkpoint, documents).as_dict(),
        evaluate_corpus(model, corpus, tokenizer, "test").as_dict(),
        trigram_scores(corpus, tokenizer, *encode_documents(checkpoint, documents)),
        trigram_on(corpus, tokenizer, "test"),
    ):
        assert scores["bits_per_byte"] is None
        assert scores["unknown_rate"] == pytest.approx(lost, abs=0.1)
        assert told_bits(scores).startswith("no bits per byte: ")
        assert told_bits(scores).endswith("% of the tokens are unknown")
    known = evaluate_documents(checkpoint, [Document(tokenizer.decode([7] * 9), "x")])
    assert known.unknown_rate is None and known.bits_per_byte is not None


def test_only_counted_targets_count(checkpoint: Checkpoint) -> None:
    ids = torch.tensor([checkpoint.tokenizer.encode(TEXT)[:21]])
    whole = Batch(ids[:, :-1], ids[:, 1:].clone())
    half = Batch(whole.ids_BT, whole.targets_BT.clone())
    half.targets_BT[:, :10] = IGNORED
    scores = score_batches(checkpoint.model, [half])
    logs, _ = token_by_token(checkpoint, ids[0].tolist())
    assert scores.tokens == 10
    assert scores.loss == pytest.approx(-sum(logs[10:]) / 10, rel=1e-4)


def test_a_sample_of_a_long_text_is_spread_over_all_of_it() -> None:
    ids = np.arange(10_001)
    whole = torch.cat([batch.ids_BT for batch in window_batches(ids, 100)])
    assert whole.flatten().tolist() == list(range(10_000))
    sample = torch.cat([batch.ids_BT for batch in window_batches(ids, 100, most_tokens=500)])
    assert sample[:, 0].tolist() == [0, 2400, 4900, 7400, 9900]


def test_nothing_to_evaluate_on_is_said(checkpoint: Checkpoint) -> None:
    with pytest.raises(DataError, match="no text to evaluate on"):
        evaluate_documents(checkpoint, [])
