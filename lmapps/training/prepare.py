"""Settings -> everything the loop needs: tokenizer, corpus, model, batches, validation.

What is already built is opened, not built again: the tokenizer by the hash of its input, the
corpus by its own key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lmapps.errors import DataError, SettingsError, StorageError
from lmapps.evaluation.language import evaluate_corpus
from lmapps.evaluation.programs import Problem
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import ModelConfig
from lmapps.model.language_model import LanguageModel
from lmapps.plugin import Example, Plugin
from lmapps.text.batches import BatchSource, PackedBatches
from lmapps.text.corpus import Corpus, build_corpus, is_corpus
from lmapps.text.shards import FIRST, ShardedBatches, Shards, are_shards
from lmapps.text.sources import data_files, hash_of_files, read_documents
from lmapps.text.storage import write_whole
from lmapps.text.template import Template
from lmapps.text.tokenizer import Tokenizer, TokenizerKind
from lmapps.training.loop import Validate
from lmapps.training.observe import Observe, observe_text
from lmapps.training.run import Run
from lmapps.training.settings import TrainSettings

TOKENIZER_CHARACTERS = 40_000_000
"""A vocabulary is learned from at most so much text, the same share of each file."""
VALIDATION_TOKENS = 100_000
"""Validation during a run reads an even sample of at most so many tokens."""


@dataclass(frozen=True)
class Prepared:
    """A model at its start and the data it will see."""

    checkpoint: Checkpoint
    batches: BatchSource
    validate: Validate
    observe: Observe
    corpus: Corpus | None
    """Token files, for the final scores; None when training on plugins' examples."""
    data_sha256: str
    """Of all that was read: the same hash, the same data."""
    held_out: Mapping[Plugin, Sequence[Example]] = field(default_factory=dict)
    """Examples of plugins that are not trained on; they choose the best weights."""
    problems: Mapping[Plugin, Sequence[Problem]] = field(default_factory=dict)
    """What plugins are to program, with tests."""
    test: Mapping[Plugin, Sequence[Example]] = field(default_factory=dict)
    """Examples that are looked at once, at the end."""
    validate_on_test: Validate | None = None
    """As `validate`, on these; None where there are none."""


def prepare_text(settings: TrainSettings, run: Run, processes: int) -> Prepared:
    """Pretraining: text files -> tokenizer -> corpus -> model."""
    if settings.best != "loss":
        raise SettingsError(f"best must be loss when training on text, got {settings.best!r}")
    if not settings.data:
        raise SettingsError("no data to train on: name files or folders of text with --data")
    alone = [path for path in settings.data if is_corpus(path) or are_shards(path)]
    if alone and len(settings.data) > 1:
        raise SettingsError(
            f"{alone[0]} holds token files, which are trained on alone: give no other --data, or "
            "the text that they were made from instead"
        )
    shards = Shards(settings.data[0]) if are_shards(settings.data[0]) else None
    if shards is not None:
        checkpoint, corpus = checkpoint_of_corpus(settings, shards.corpus(FIRST))
    else:
        checkpoint, corpus = open_corpus(settings) or corpus_of_files(settings, run)
    context = checkpoint.config.context
    rows = settings.rows_at_once(context, processes)
    batches: BatchSource
    if shards is not None:
        batches = ShardedBatches(shards, context, rows, settings.seed, processes)
    else:
        batches = PackedBatches(corpus.ids("train"), context, rows, settings.seed)

    def validate(model: Any) -> Any:
        return evaluate_corpus(model, corpus, checkpoint.tokenizer, "validation", VALIDATION_TOKENS)

    return Prepared(
        checkpoint,
        batches,
        validate,
        lambda: observe_text(checkpoint),
        corpus,
        shards.key if shards is not None else corpus.key,
    )


def corpus_of_files(settings: TrainSettings, run: Run) -> tuple[Checkpoint, Corpus]:
    """The model to train, and the text files as token files in the run's folder."""
    files = data_files(settings.data)
    if settings.start_from:
        checkpoint = checkpoint_before(settings)
    else:
        tokenizer = train_tokenizer(files, settings.tokenizer, settings.vocab_size, run.state)
        checkpoint = new_checkpoint(settings, tokenizer)
    return checkpoint, build_corpus(files, checkpoint.tokenizer, run.state / "corpus")


def open_corpus(settings: TrainSettings) -> tuple[Checkpoint, Corpus] | None:
    """Token files that `lmapps data --out` made, used where they are; None for files of text."""
    folder = Path(settings.data[0])
    if len(settings.data) != 1 or not is_corpus(folder):
        return None
    return checkpoint_of_corpus(settings, Corpus.load(folder))


def checkpoint_of_corpus(settings: TrainSettings, corpus: Corpus) -> tuple[Checkpoint, Corpus]:
    """The model to train on token files: a new one for their vocabulary, or one that has it."""
    tokenizer = Tokenizer.load(corpus.folder)
    if not settings.start_from:
        return new_checkpoint(settings, tokenizer), corpus
    checkpoint = checkpoint_before(settings)
    if checkpoint.tokenizer.raw.to_str() != tokenizer.raw.to_str():
        raise DataError(
            f"{settings.data[0]} was made with another vocabulary than {settings.start_from} has: "
            f"make it anew with `lmapps data --checkpoint {settings.start_from} --out DIR FILES`"
        )
    return checkpoint, corpus


def checkpoint_before(settings: TrainSettings) -> Checkpoint:
    """The checkpoint that the run goes on from, with the dropout that was asked for."""
    checkpoint = Checkpoint.load(settings.start_from)
    settings.check_shape(checkpoint.config)
    if settings.dropout:
        model = LanguageModel(checkpoint.config.changed(dropout=settings.dropout))
        model.load_state_dict(checkpoint.model.state_dict())
        checkpoint = replace(checkpoint, model=model)
    return checkpoint


def new_checkpoint(settings: TrainSettings, tokenizer: Tokenizer) -> Checkpoint:
    """A model with random weights, of the size and body chosen."""
    config = ModelConfig.from_size(
        settings.size,
        body=settings.model,
        vocab_size=tokenizer.vocab_size,
        context=settings.context,
        layers=settings.layers,
        width=settings.width,
    ).changed(dropout=settings.dropout)
    torch.manual_seed(settings.seed)
    return Checkpoint(LanguageModel(config), tokenizer, Template(tokenizer))


def train_tokenizer(
    files: Sequence[Path], kind: TokenizerKind, vocab_size: int, folder: Path
) -> Tokenizer:
    """Learn a vocabulary, or open the one that was learned from the same input."""
    key = json.dumps([hash_of_files(files), kind, vocab_size])
    target = folder / "tokenizer"
    if (target / "key.json").is_file() and (target / "key.json").read_text() == key:
        return Tokenizer.load(target)
    tokenizer = Tokenizer.train(_sample(files), kind, vocab_size)
    try:
        target.mkdir(parents=True, exist_ok=True)
        tokenizer.save(target)
        write_whole(target / "key.json", key.encode())
    except OSError as error:
        raise StorageError(f"cannot write the vocabulary to {target}: {error}") from None
    return tokenizer


def _sample(files: Sequence[Path]) -> Iterator[str]:
    """The first part of each file, the same number of characters of each."""
    share = TOKENIZER_CHARACTERS // len(files)
    for file in files:
        taken = 0
        for document in read_documents([file]):
            yield document.text[: share - taken]
            taken += len(document.text)
            if taken >= share:
                break
