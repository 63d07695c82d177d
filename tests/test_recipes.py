"""The recipes of the default checkpoints run from text to a checkpoint, at a tiny size."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lmapps.__main__ import main
from lmapps.model.checkpoint import Checkpoint

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


@pytest.mark.parametrize(("machine", "body"), [("cpu", "transformer"), ("gpu", "gru")])
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


def test_the_records_are_chosen_as_the_recipe_says(data: Path) -> None:
    records = made_records(data)
    assert records == made_records(data), "the same files give the same records"
    assert [record["headline"] for record in records["news"]] == ["Rain"], "no gaps"
    assert len(records["code"]) == 1 and len(records["summarize"]) == 3
    turns = [record["messages"] for record in records["chat"]]
    for messages in turns:
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert all(message["content"].strip() for message in messages)
    said = {message["content"] for messages in turns for message in messages}
    assert {"A river is a stream of water.", "Thanks", "You're welcome!"} <= said
