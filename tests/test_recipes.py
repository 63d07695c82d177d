"""The recipes of the default checkpoints run from text to a checkpoint, at a tiny size."""

from __future__ import annotations

import json
import lzma
import operator
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from lmapps.__main__ import main
from lmapps.errors import SettingsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import ModelConfig
from lmapps.model.language_model import LanguageModel

RECIPES = Path(__file__).parent.parent / "recipes"
TINY = [
    "--width", "32", "--layers", "1", "--context", "96", "--vocab-size", "300",
]  # fmt: skip
SHORT = [
    "--tokens", "0", "--minutes", "0", "--steps", "2", "--batch-tokens", "512",
    "--micro-batch-tokens", "512",
]  # fmt: skip
FEW = [
    "--evaluations", "1", "--saves", "1",
]  # fmt: skip
RIVER = "A river is a stream of water. It flows to the sea. Many towns stand beside one."


def write(file: Path, records: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(file, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `data` with the files that recipes/README.md names, of a few records each."""
    monkeypatch.chdir(tmp_path)
    table = (RECIPES / "README.md").read_text()
    folder = tmp_path / "data"
    names = [f"wikipedia-0{n}" for n in range(7)] + ["wikinews", "us_gov", "algorithms", "python"]
    for name in [*names, "arxiv", "openstax", "books"]:
        assert name.removesuffix("-06")[:9] in table, f"recipes/README.md lacks {name}"
        texts = [{"text": f"{RIVER} {name} {n}. " * 6} for n in range(12)]
        write(folder / "pretrain" / f"{name}.jsonl.xz", texts)
    talk = [
        {"role": "user", "content": "What is a river?"},
        {"role": "assistant", "content": RIVER},
    ]
    for name in ("wiki_about", "dolly_openqa", "medquad"):
        chats = [{"messages": talk, "title": f"River {n}"} for n in range(12)]
        write(folder / "sft" / f"chat-{name}.jsonl.xz", chats)
    article = {"headline": "Rain", "body": RIVER, "source": "wikinews"}
    write(folder / "sft" / "news.jsonl.xz", [article, {**article, "holes": 3}])
    function = {"instruction": "Add.", "code": "def add(a, b):\n    return a + b\n"}
    sources = [{"source": "pypi/attrs"}, {"source": "doocs_leetcode"}]
    write(folder / "sft" / "code.jsonl.xz", [{**function, **source} for source in sources])
    summary = {"document": RIVER, "summary": "About rivers.", "kind": "headline"}
    write(folder / "sft" / "summarize.jsonl.xz", [summary] * 3)
    return folder


def made_records(data: Path) -> dict[str, list[dict[str, Any]]]:
    script = [sys.executable, str(RECIPES / "records.py"), "data/sft", "data/tuning"]
    subprocess.run(script, check=True, capture_output=True)
    return {
        file.stem: [json.loads(line) for line in file.read_text().splitlines()]
        for file in (data / "tuning").iterdir()
    }


@pytest.mark.parametrize(
    ("machine", "body"),
    [("cpu", "transformer"), pytest.param("gpu", "gru", marks=pytest.mark.long)],
)
def test_both_stages_of_a_recipe_give_a_checkpoint(machine: str, body: str, data: Path) -> None:
    made_records(data)
    for stage in ("pretrain", "tune"):
        known = tomllib.loads((RECIPES / machine / f"{stage}.toml").read_text())
        assert all((data.parent / file.split("=")[-1]).exists() for file in known["data"])
    pretrain = ["train", "--recipe", str(RECIPES / machine / "pretrain.toml"), "--model", body]
    assert main([*pretrain, *TINY, *SHORT, *FEW, "--out", "runs/text"]) == 0
    tune = ["train", "--recipe", str(RECIPES / machine / "tune.toml"), "--from", "runs/text"]
    assert main([*tune, *SHORT, *FEW, "--out", "runs/tuned"]) == 0
    made = Checkpoint.load(data.parent / "runs" / "tuned")
    assert made.config.body == body
    report = json.loads((data.parent / "runs" / "tuned" / "report.json").read_text())
    assert report["settings"]["apps"] == ["chat", "news", "code", "summarize"]
    assert report["before"]["settings"]["model"] == body


def test_a_deeper_model_says_the_same_until_it_has_learned_more() -> None:
    deeper = runpy.run_path(str(RECIPES / "deeper.py"))["deeper"]
    torch.manual_seed(0)
    shape = {"body": "transformer", "vocab_size": 50, "embed_size": 32, "hidden_size": 32}
    model = LanguageModel(ModelConfig(**shape, num_layers=2, num_heads=2, context=16))
    grown = deeper(model, 6, 32)
    ids_BT = torch.randint(50, (2, 16))
    assert torch.equal(grown(ids_BT), model(ids_BT))
    assert grown.config.num_layers == 6 and grown.config.context == 32
    moved = torch.nn.functional.cross_entropy(grown(ids_BT).mT, ids_BT)
    moved.backward()
    assert all(layer.mlp.down_proj.weight.grad.abs().max() > 0 for layer in grown.body.layers)
    with pytest.raises(SettingsError, match="a multiple of 2, got 5"):
        deeper(model, 5)
    with pytest.raises(SettingsError, match="not a gru"):
        deeper(LanguageModel(ModelConfig(body="gru", vocab_size=50)), 2)


def test_the_records_are_chosen_as_the_recipe_says(data: Path) -> None:
    records = made_records(data)
    assert records == made_records(data), "the same files give the same records"
    assert [record["headline"] for record in records["news"]] == ["Rain"], "no gaps"
    assert records["code"][-1] == {
        "instruction": "Add.",
        "code": "def add(a, b):\n    return a + b\n",
    }
    assert len(records["summarize"]) == 3
    of_functions_py = {record["code"] for record in records["code"][:-1]}
    assert "def is_odd(n):\n    return n % 2 == 1" in of_functions_py
    assert not any("doocs" in json.dumps(record) for record in records["code"])
    turns = [record["messages"] for record in records["chat"]]
    for messages in turns:
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert all(message["content"].strip() for message in messages)
    said = {message["content"] for messages in turns for message in messages}
    assert {"A river is a stream of water.", "Thanks", "You're welcome!"} <= said
    assert {"And of Japan?", "The Magic Flute was composed by Wolfgang Amadeus Mozart."} <= said
    assert "The grass is green." in said, "a sentence begins with a capital letter"


def test_what_models_are_judged_by_is_never_taught(data: Path) -> None:
    records = made_records(data)
    turns = [message["content"] for record in records["chat"] for message in record["messages"]]
    facts = [json.loads(line)["question"] for line in (RECIPES / "facts.jsonl").open()]
    assert not {fact.casefold() for fact in facts} & {turn.casefold() for turn in turns}
    assert "What is the capital of Peru?" in turns, "others are asked in these words"
    problems = [json.loads(line) for line in (RECIPES / "problems.jsonl").open()]
    judged = {re.findall(r"function (\w+)", problem["text"])[0] for problem in problems}
    taught = {re.findall(r"def (\w+)", record["code"])[0] for record in records["code"][:-1]}
    assert len(judged) == 30 and not judged & taught


def test_the_sums_that_are_taught_are_right_and_some_are_kept_apart(data: Path) -> None:
    known = runpy.run_path(str(RECIPES / "sums.py"))
    doing = {"+": operator.add, "-": operator.sub, "*": operator.mul}
    assert all(one.result == doing[one.sign](one.left, one.right) for one in known["sums"]())
    turns = [record["messages"] for record in made_records(data)["chat"]]
    said = {(turn[-2]["content"], turn[-1]["content"]) for turn in turns}
    assert {
        ("2 + 2", "2 + 2 is 4."), ("How much is 12*12?", "12*12 is 144."),
        ("What's twenty plus eleven?", "Twenty plus eleven is 31."),
        ("What is three times four?", "Three times four is twelve."),
    } <= said  # fmt: skip
    judged = list(known["judged"]())
    asked = {question for question, _ in said}
    assert len(judged) > 100 and not asked & {one["question"] for one in judged}
    apart = [one for one in known["sums"]() if not known["is_taught"](one)]
    words = {ask.format(form) for one in apart for form, _ in one.forms for ask in known["ASK"]}
    assert not asked & words, "in no form"


def test_the_functions_that_are_taught_do_what_they_say() -> None:
    known = runpy.run_path(str(RECIPES / "functions.py"))
    assert known["median"]([3, 1, 2]) == 2 and known["median"]([1, 2]) == 1.5
    assert known["lcm"](4, 6) == 12 and known["collatz_steps"](6) == 8
    assert known["reverse_number"](120) == 21 and known["from_binary"](known["to_binary"](10)) == 10
    assert (
        known["running_total"]([1, 2, 3]) == [1, 3, 6] and known["second_largest"]([1, 5, 3]) == 3
    )
    assert known["index_of"]("abc", "c") == 2 and known["index_of"]([], 1) == -1
    assert known["swap_ends"]([1, 2, 3]) == [3, 2, 1] and known["rotate"]([1, 2, 3]) == [2, 3, 1]
    assert known["chunks"]([1, 2, 3], 2) == [[1, 2], [3]] and known["dot"]([1, 2], [3, 4]) == 11
    assert known["initials"]("Ada Lovelace") == "AL" and known["caesar"]("xyz", 1) == "yza"
    assert known["letter_counts"]("aba") == {"a": 2, "b": 1}
    assert known["group_by_length"](["a", "b", "cc"]) == {1: ["a", "b"], 2: ["cc"]}
    assert known["transpose"]([[1, 2], [3, 4]]) == [[1, 3], [2, 4]]
    assert [known["binary_search"]([1, 3, 5], n) for n in (1, 5, 4)] == [0, 2, -1]
    assert known["bubble_sort"]([3, 1, 2]) == [1, 2, 3] and known["is_sorted"]([1, 1, 2])
    assert known["is_perfect"](6) and known["divisors"](6) == [1, 2, 3, 6]


@pytest.mark.parametrize("lesson", tomllib.loads((RECIPES / "lessons.toml").read_text())["lesson"])
def test_each_fact_has_what_its_wordings_name(lesson: dict[str, Any]) -> None:
    answers = [lesson[key] for key in ("reply", "answer", "then", "more") if key in lesson]
    wordings = [*answers, *lesson["ask"], *lesson.get("back", ())]
    named = {int(place) for wording in wordings for place in re.findall(r"{(\d)}", wording)}
    for line in lesson["facts"].strip().splitlines():
        parts = line.split(" | ")
        assert all(part.strip() for part in parts)
        assert {*range(len(parts))} == named, line
