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
    Batch,
    BatchSource,
    ExampleBatches,
    MixedBatches,
    PackedBatches,
    PackedExamples,
)
from lmapps.text.corpus import build_corpus
from lmapps.text.sources import data_files, hash_of_files, read_records
from lmapps.text.template import Template
from lmapps.training.compiled import is_compiled
from lmapps.training.observe import observe_apps
from lmapps.training.prepare import VALIDATION_TOKENS, Prepared, checkpoint_before
from lmapps.training.run import Run
from lmapps.training.settings import TrainSettings

Rendered = tuple[list[int], list[bool]]

HELD_OUT_EVERY = 50
"""One record of so many is held out for validation, chosen by its hash."""


def prepare_apps(settings: TrainSettings, run: Run, processes: int) -> Prepared:
    """Fine-tuning: plugins and their records -> batches of examples."""
    checkpoint = checkpoint_before(settings)
    train: list[Rendered] = []
    held_out: dict[Plugin, list[Example]] = {}
    validation: list[Rendered] = []
    own: list[bytes] = []
    files = files_of_apps(settings.apps, settings.data)
    for plugin in find_plugins(settings.apps):
        held_out[plugin] = []
        for example in examples_of(plugin, files.get(plugin.name, ())):
            if example.record is None:
                own.append(_digest(plugin, example))
            rendered = render(plugin, example, checkpoint.template, checkpoint.config.context)
            if rendered is None:
                continue
            if is_held_out(plugin, example):
                held_out[plugin].append(example)
                validation.append(rendered)
            else:
                train.append(rendered)
    problems = problems_of(settings, list(held_out))
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
    validation_batches = _validation_batches(validation or train[:HELD_OUT_EVERY], tokens, pad_id)
    none = "" if validation else ": validation is on examples that are trained on"
    print(f"{len(train):,} examples, {len(validation):,} held out{none}")
    return Prepared(
        checkpoint,
        batches,
        lambda model: score_batches(model, validation_batches),
        lambda: observe_apps(checkpoint, held_out, settings.judged, problems, settings.samples),
        None,
        hash_of_data([*chain.from_iterable(files.values()), *settings.mix_data], own),
        held_out,
        problems,
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


def is_held_out(plugin: Plugin, example: Example) -> bool:
    """All examples of a record are on the same side, in every run."""
    return int.from_bytes(_digest(plugin, example)[:4]) % HELD_OUT_EVERY == 0


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
    """Every example of the files, or the plugin's own; or only those that training leaves out.

    Raises `DataError` where training leaves none out.
    """
    if not held_out:
        return list(plugin.examples_from(_records(files)) if files else plugin.own_examples())
    chosen = [example for example in examples_of(plugin, files) if is_held_out(plugin, example)]
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


def _validation_batches(examples: list[Rendered], tokens: int, pad_id: int) -> list[Batch]:
    batches = ExampleBatches(examples, tokens, 0, pad_id)
    most = max(1, VALIDATION_TOKENS // tokens)
    return [batches.batch(number) for number in range(min(most, batches.batches_per_epoch))]
