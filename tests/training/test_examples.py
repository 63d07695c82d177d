"""Plugins' data sets -> examples: what is trained on, what is held out, what is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmapps import Passage, plugin
from lmapps.errors import DataError
from lmapps.model.checkpoint import Checkpoint
from lmapps.plugin import Example, Plugin
from lmapps.training.examples import examples_of, examples_to_score, render, split_of

RECORDS = 2000


@pytest.fixture(scope="module")
def answer() -> Plugin:
    """A plugin with one example of its own and two of each record."""

    @plugin
    def answer(text: Passage) -> str:
        """Answer."""
        return f"Answer: {text}"

    @answer.dataset
    def own() -> Any:
        yield {"text": "Who are you?"}, "A model."

    @answer.dataset(fields=("number",))
    def twice(record: dict[str, Any]) -> Any:
        yield {"text": f"Is it {record['number']}?"}, "Yes."
        yield {"text": f"Is {record['number']} it?"}, "Yes."

    return answer


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("records") / "records.jsonl"
    file.write_text("\n".join(json.dumps({"number": number}) for number in range(RECORDS)))
    return str(file)


def test_what_a_record_gives_stays_together_and_one_in_fifty_is_for_validation_and_for_a_test(
    answer: Plugin, file: str
) -> None:
    splits: dict[int, set[str]] = {}
    for example in examples_of(answer, [file]):
        if example.record is not None:
            splits.setdefault(example.record["number"], set()).add(split_of(answer, example))
    assert len(splits) == RECORDS and all(len(split) == 1 for split in splits.values())
    for split in ("validation", "test"):
        assert 20 <= sum(found == {split} for found in splits.values()) <= 60


def test_all_of_the_files_is_scored_or_what_training_leaves_out(answer: Plugin, file: str) -> None:
    every = examples_to_score(answer, [file], held_out=False)
    assert len(every) == 2 * RECORDS and all(example.record for example in every)
    held_out = examples_to_score(answer, [file], held_out=True)
    assert {split_of(answer, example) for example in held_out} == {"test"}
    every = list(examples_of(answer, [file]))
    assert len(held_out) == sum(split_of(answer, example) == "test" for example in every)
    assert [e.reply for e in examples_to_score(answer, [], held_out=False)] == ["A model."]
    with pytest.raises(DataError, match=r"no example out: .* without --held-out"):
        examples_to_score(answer, [], held_out=True)


def test_a_long_document_is_cut_and_its_reply_kept(
    answer: Plugin, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    template = tiny_checkpoint("gru").template
    tokenizer = template.tokenizer
    reply = "The cat ran up a tree."
    example = Example({"text": "The dog ran after the cat. " * 60}, reply, reply)
    rendered = render(answer, example, template, 128)
    assert rendered is not None
    ids, mask = rendered
    assert 90 <= len(ids) <= 129
    counted = [token for token, is_reply in zip(ids, mask, strict=True) if is_reply]
    assert tokenizer.decode(counted[:-1]) == reply and counted[-1] in tokenizer.end_ids
    assert tokenizer.decode(ids).count("The dog ran") > 3
    too_long = Example({"text": "Hi."}, reply * 30, reply)
    assert render(answer, too_long, template, 128) is None


def test_a_plugin_without_examples_says_how_to_give_some(answer: Plugin, tmp_path: Path) -> None:
    @plugin
    def reader(text: str) -> str:
        """Read."""
        return text

    @reader.dataset(fields=("text",))
    def of_records(record: dict[str, Any]) -> Any:
        yield {"text": record["text"]}, "Read."

    with pytest.raises(DataError, match="give records with --data reader=FILE"):
        list(examples_of(reader, []))
