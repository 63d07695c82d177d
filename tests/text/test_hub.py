"""Hugging Face data sets as sources of a recipe; nothing here needs a network."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from lmapps.errors import DataError, SettingsError
from lmapps.text.build import build_data
from lmapps.text.hub import HubDataset, read_dataset
from lmapps.text.recipe import read_data_recipe
from lmapps.text.sources import read_records
from tests.conftest import brought

datasets = brought("datasets")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set as the Hub stores it: Parquet files in a folder."""
    for split in ("train", "test"):
        bodies = [f"Document {n} of {split}." for n in range(30)]
        table = datasets.Dataset.from_dict({"body": bodies, "number": list(range(30))})
        (tmp_path / "web" / "data").mkdir(parents=True, exist_ok=True)
        table.to_parquet(str(tmp_path / "web" / "data" / f"{split}-00000-of-00001.parquet"))
    return tmp_path


def test_a_data_set_is_a_source_beside_files(folder: Path) -> None:
    (folder / "own.txt").write_text("A text of my own.")
    (folder / "recipe.toml").write_text(
        """
        [split]
        validation = 0
        test = 0
        [[sources]]
        name = "web"
        dataset = "web"
        text = "body"
        [[sources]]
        name = "own"
        paths = ["own.txt"]
        """
    )
    recipe = read_data_recipe(folder / "recipe.toml")
    manifest = build_data(recipe, folder / "out", processes=1)
    assert manifest["sources"]["web"]["read"] == 30 and manifest["sources"]["own"]["read"] == 1
    records = list(read_records(folder / "out" / "train.jsonl"))
    assert records[0] == {"text": "Document 0 of train.", "source": "web"}
    assert records[-1] == {"text": "A text of my own.", "source": "own"}
    assert list(manifest["files"]) == [f"{folder / 'web'} train", str(folder / "own.txt")]
    assert build_data(recipe, folder / "again", processes=1) == manifest


def test_only_the_split_that_was_named_is_read(folder: Path) -> None:
    wanted = HubDataset(str(folder / "web"), split="test", text="body")
    found = [document.text for document in read_dataset(wanted)]
    assert found == [f"Document {n} of test." for n in range(30)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, r"record 1: no text in the field 'text' \(fields: body, number\)"),
        ({"text": "number"}, "no text in the field 'number'"),
        ({"text": "body", "split": "dev"}, "cannot be read .*dev.*check its name"),
    ],
)
def test_what_is_wrong_with_a_data_set_is_a_sentence(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        list(read_dataset(HubDataset(str(folder / "web"), **changes)))


def test_without_a_network_a_name_on_the_hub_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"owner/name.* cannot be read .*this machine is online"):
        list(read_dataset(HubDataset("owner/name")))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingsError, match=r"pip install 'lmapps\[datasets\]'"):
        list(read_dataset(HubDataset("owner/name")))
