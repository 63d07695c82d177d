"""Plugins' data sets -> rendered examples, through the plugins' own prompts.

The words of an example come from the plugin's prompt function and its ids from the checkpoint's
template: the same two that make a live request. An example that is too long for the context
loses the end of its document, never of its reply.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from lmapps.discovery import discover
from lmapps.errors import DataError, PluginError, SettingsError
from lmapps.evaluation.language import score_batches
from lmapps.evaluation.programs import Problem, ks_of, read_problems
from lmapps.evaluation.sandbox import NoSandbox, why_not
from lmapps.model.checkpoint import Checkpoint
from lmapps.plugin import Example, Plugin
from lmapps.text.batches import (
    BatchSource,
    ExampleBatches,
    MixedBatches,
    PackedBatches,
    PackedExamples,
)
from lmapps.text.corpus import SPLITS, Split, build_corpus
from lmapps.text.sources import data_files, hash_of_files, read_records
from lmapps.text.template import Template
from lmapps.training.compiled import is_compiled
from lmapps.training.loop import Validate
from lmapps.training.observe import observe_apps
from lmapps.training.prepare import VALIDATION_TOKENS, Prepared, checkpoint_before
from lmapps.training.run import Run
from lmapps.training.settings import TrainSettings

Rendered = tuple[list[int], list[bool]]

HELD_OUT_EVERY = 50
"""Of so many records one is held out for validation and one for the scores at the end, chosen by
their hashes."""


def prepare_apps(settings: TrainSettings, run: Run, processes: int) -> Prepared:
    """Fine-tuning: plugins and their records -> batches of examples."""
    checkpoint = checkpoint_before(settings)
    plugins = find_plugins(settings.apps)
    rendered: dict[Split, list[Rendered]] = {split: [] for split in SPLITS}
    examples: dict[Split, dict[Plugin, list[Example]]] = {
        split: {plugin: [] for plugin in plugins} for split in ("validation", "test")
    }
    own: list[bytes] = []
    files = files_of_apps(settings.apps, settings.data)
    for plugin in plugins:
        for example in examples_of(plugin, files.get(plugin.name, ())):
            if example.record is None:
                own.append(_digest(plugin, example))
            found = render(plugin, example, checkpoint.template, checkpoint.config.context)
            if found is None:
                continue
            split = split_of(plugin, example)
            rendered[split].append(found)
            if split != "train":
                examples[split][plugin].append(example)
    train, validation, test = (rendered[split] for split in SPLITS)
    held_out = examples["validation"]
    problems = problems_of(settings, plugins)
    _check_best(settings, held_out, problems)
    if not train:
        raise DataError(
            f"no example of {', '.join(settings.apps)} fits a context of "
            f"{checkpoint.config.context} tokens"
        )
    tokens = settings.tokens_at_once(processes)
    pad_id = max(0, checkpoint.tokenizer.bos_id)  # never counted: any id will do
    batches: BatchSource
    if is_compiled(settings, checkpoint.config.body):  # for batches of one shape
        context = checkpoint.config.context
        rows = settings.rows_at_once(context, processes)
        batches = PackedExamples(train, context, rows, settings.seed, pad_id)
    else:
        batches = ExampleBatches(train, tokens, settings.seed, pad_id)
    text = mixed_in(settings, checkpoint, run, processes)
    if text is not None:
        batches = MixedBatches(batches, text, settings.mix)
    none = "" if validation else ": validation is on examples that are trained on"
    print(f"{len(train):,} examples, {len(validation) + len(test):,} held out{none}")
    return Prepared(
        checkpoint,
        batches,
        _scoring(validation or train[:HELD_OUT_EVERY], tokens, pad_id),
        lambda: observe_apps(checkpoint, held_out, settings.judged, problems, settings.samples),
        None,
        hash_of_data([*chain.from_iterable(files.values()), *settings.mix_data], own),
        held_out,
        problems,
        examples["test"],
        _scoring(test, tokens, pad_id) if test else None,
    )


def mixed_in(
    settings: TrainSettings, checkpoint: Checkpoint, run: Run, processes: int
) -> BatchSource | None:
    """Text as in pretraining, with every token counted; None where none was given."""
    if not settings.mix_data:
        return None
    corpus = build_corpus(settings.mix_data, checkpoint.tokenizer, run.state / "corpus")
    context = checkpoint.config.context
    rows = settings.rows_at_once(context, processes)
    return PackedBatches(corpus.ids("train"), context, rows, settings.seed)


def find_plugins(names: Sequence[str]) -> list[Plugin]:
    """Plugins by name. Raises `PluginError` with the known ones."""
    found = discover()
    return [found.get(name) for name in names]


def problems_of(settings: TrainSettings, plugins: Sequence[Plugin]) -> dict[Plugin, list[Problem]]:
    """The problems of each plugin that was given some; none, with a sentence, where programs cannot
    be confined. Raises `NoSandbox` where the best weights would depend on them."""
    files = files_of_apps(settings.apps, settings.problems, "problems are")
    reason = why_not() if settings.problems else None
    if reason is not None:
        if ".pass@" in settings.best:
            raise NoSandbox(f"best is {settings.best}, and programs are not run here: {reason}")
        print(f"pass@k is left out: programs are not run here: {reason}")
        return {}
    return {
        plugin: [problem for file in files[plugin.name] for problem in read_problems(file)]
        for plugin in plugins
        if files[plugin.name]
    }


def files_of_apps(
    apps: Sequence[str], data: Sequence[str], what: str = "data is"
) -> dict[str, list[str]]:
    """`NAME=FILE` arguments -> the files of each plugin. Raises `SettingsError`."""
    files: dict[str, list[str]] = {name: [] for name in apps}
    for argument in data:
        name, separator, file = argument.partition("=")
        if not separator or name not in files:
            raise SettingsError(
                f"with --apps, {what} given as NAME=FILE with NAME one of {', '.join(apps)}, "
                f"got {argument!r}"
            )
        files[name].append(file)
    return files


def examples_of(plugin: Plugin, files: Sequence[str]) -> Iterator[Example]:
    """The examples in a plugin's own file, then those its data set makes of the records."""
    if not plugin.has_dataset:
        raise PluginError(f"plugin {plugin.name!r} has no data set: add one with @dataset")
    count = 0
    for example in chain(plugin.own_examples(), plugin.examples_from(_records(files))):
        count += 1
        yield example
    if not count:
        raise DataError(
            f"plugin {plugin.name!r} has no examples: give records with --data {plugin.name}=FILE"
        )


def render(plugin: Plugin, example: Example, template: Template, context: int) -> Rendered | None:
    """Ids and loss mask of an example, its document shortened to fit; None where it can't."""
    ids, mask = template.training_ids(plugin.conversation(example))
    for _ in range(4):
        if len(ids) <= context + 1:
            return ids, mask
        shorter = _with_shorter_passage(plugin, example, context / len(ids))
        if shorter is None:
            return None
        example = shorter
        ids, mask = template.training_ids(plugin.conversation(example))
    return None


def split_of(plugin: Plugin, example: Example) -> Split:
    """All examples of a record are in the same one, in every run."""
    number = int.from_bytes(_digest(plugin, example)[:4]) % HELD_OUT_EVERY
    return "validation" if number == 0 else "test" if number == 1 else "train"


def _digest(plugin: Plugin, example: Example) -> bytes:
    """SHA-256 of what an example was made of, or of itself where it is the plugin's own."""
    origin = example.record or {"fields": example.fields, "reply": example.reply}
    return hashlib.sha256(repr((plugin.name, sorted(origin.items()))).encode()).digest()


def hash_of_data(files: Sequence[str], own: Sequence[bytes]) -> str:
    """SHA-256 of files, and of the digests of the plugins' own examples where there are some."""
    found = [hash_of_files(data_files(files))] if files else []
    found += [hashlib.sha256(b"".join(own)).hexdigest()] if own else []
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def examples_to_score(plugin: Plugin, files: Sequence[str], held_out: bool) -> list[Example]:
    """Every example of the files, or the plugin's own; or only those that training leaves out: for
    a test, or, where there is none, for validation, which chose the best weights.

    Raises `DataError` where training leaves none out.
    """
    if not held_out:
        return list(plugin.examples_from(_records(files)) if files else plugin.own_examples())
    found: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    for example in examples_of(plugin, files):
        found[split_of(plugin, example)].append(example)
    chosen = found["test"] or found["validation"]
    if not chosen:
        raise DataError(
            f"training plugin {plugin.name!r} on these files holds no example out: there are too "
            "few; give other files, without --held-out"
        )
    return chosen


def _records(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    for file in data_files(list(files)) if files else ():
        yield from read_records(file)


def _with_shorter_passage(plugin: Plugin, example: Example, share: float) -> Example | None:
    field = plugin.passage_field
    if field is None:
        return None
    passage = str(example.fields[field])
    keep = int(len(passage) * share * 0.9) - 20
    if keep < 100:
        return None
    cut = passage[:keep].rsplit(" ", 1)[0]
    fields: dict[str, Any] = {**example.fields, field: cut}
    return replace(example, fields=fields)


def _check_best(
    settings: TrainSettings,
    held_out: dict[Plugin, list[Example]],
    problems: dict[Plugin, list[Problem]],
) -> None:
    """The best weights are chosen by something that will be there."""
    known = [f"{p.name}.{name}" for p, kept in held_out.items() if kept for name in p.metrics]
    known += [f"{p.name}.pass@{k}" for p in problems for k in ks_of(settings.samples)]
    if settings.best not in ("loss", *known):
        raise SettingsError(
            f"best must be loss or the metric of a plugin with held-out examples or problems "
            f"({', '.join(known) or 'none here'}), got {settings.best!r}"
        )


def _scoring(examples: list[Rendered], tokens: int, pad_id: int) -> Validate:
    """The scores of a model on examples, always the same ones."""
    source = ExampleBatches(examples, tokens, 0, pad_id)
    most = max(1, VALIDATION_TOKENS // tokens)
    batches = [source.batch(number) for number in range(min(most, source.batches_per_epoch))]
    return lambda model: score_batches(model, batches)
