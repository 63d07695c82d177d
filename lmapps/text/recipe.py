"""A TOML recipe -> cleaned, deduplicated, split text with a manifest: data that can be made again.

[clean]                     # all of it optional
whitespace = true           # trailing spaces, runs of blank lines
min_characters = 200
max_characters = 1000000
languages = ["en", "zh"]    # by the script of the letters: en stands for Latin, zh for Han
min_letters = 0.5           # share of letters among the characters that are no space

[duplicates]
exact = true
near = 0.8                  # estimated share of 5-word pieces in common; 0 = keep them

[split]
validation = 0.01           # shares of the documents, drawn by their hash
test = 0.01

[[sources]]
name = "wiki"
paths = ["texts/wiki*.jsonl.xz"]   # files, folders, patterns; relative to the recipe
weight = 2.0                # how often its training documents are written; 1 where not given

[[sources]]
name = "web"
dataset = "owner/name"      # a Hugging Face data set, read as a stream (extra `datasets`)
config = "en"               # optional, as are:
split = "train"
revision = "main"           # a commit makes the recipe repeatable
text = "text"               # the field that holds the document

[held_out]
paths = ["heldout/*.jsonl"] # overlap of the training text with these is counted and reported
drop = true                 # and documents that overlap are left out
"""

from __future__ import annotations

import glob
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lmapps.errors import DataError, SettingsError
from lmapps.text.hub import HubDataset
from lmapps.text.sources import data_files

SCRIPTS = {"en": "LATIN", "zh": "CJK"}


@dataclass(frozen=True)
class Clean:
    whitespace: bool = True
    min_characters: int = 1
    max_characters: int = 10**9
    languages: tuple[str, ...] = ()
    min_letters: float = 0.0


@dataclass(frozen=True)
class Duplicates:
    exact: bool = True
    near: float = 0.0


@dataclass(frozen=True)
class Splits:
    validation: float = 0.01
    test: float = 0.01

    def of(self, key: bytes) -> str:
        """Drawn by the hash of the text: the same document is on the same side in every build."""
        place = int.from_bytes(key[:8]) / 2**64
        if place < self.test:
            return "test"
        return "validation" if place < self.test + self.validation else "train"


@dataclass(frozen=True)
class Source:
    name: str
    files: tuple[Path, ...] = ()
    weight: float = 1.0
    dataset: HubDataset | None = None


@dataclass(frozen=True)
class HeldOut:
    files: tuple[Path, ...] = ()
    drop: bool = True


@dataclass(frozen=True)
class DataRecipe:
    """A whole recipe, checked. Raises `SettingsError` with what is wrong where."""

    sources: tuple[Source, ...]
    clean: Clean = field(default_factory=Clean)
    duplicates: Duplicates = field(default_factory=Duplicates)
    split: Splits = field(default_factory=Splits)
    held_out: HeldOut = field(default_factory=HeldOut)

    def __post_init__(self) -> None:
        for name in self.clean.languages:
            if name not in SCRIPTS:
                raise SettingsError(f"languages are of {', '.join(SCRIPTS)}, got {name!r}")
        if not 0 <= self.duplicates.near <= 1:
            raise SettingsError(f"near must be between 0 and 1, got {self.duplicates.near}")
        if not 0 <= self.split.validation + self.split.test < 1:
            raise SettingsError("validation and test together must be less than all documents")
        for source in self.sources:
            if not 0 < source.weight <= 100:
                raise SettingsError(
                    f"source {source.name}: weight must be above 0 and at most 100, got "
                    f"{source.weight}"
                )


def read_data_recipe(file: Path) -> DataRecipe:
    """Read and check a recipe file; patterns are resolved, relative to it."""
    try:
        stored = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"there is no recipe {file}; check the path") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"recipe {file} cannot be read: {error}") from None
    known = ("sources", "clean", "duplicates", "split", "held_out")
    _refuse_unknown(stored, known, str(file))
    sources = stored.get("sources", [])
    if not isinstance(sources, list) or not sources:
        raise SettingsError(f"recipe {file} names no [[sources]] (a list: two brackets)")
    held_out = _table(stored, "held_out")
    _refuse_unknown(held_out, ("paths", "drop"), "held_out")
    _check("held_out: drop", held_out.get("drop", True), True)
    return DataRecipe(
        tuple(_source(number, values, file.parent) for number, values in enumerate(sources)),
        _part(Clean, stored, "clean"),
        _part(Duplicates, stored, "duplicates"),
        _part(Splits, stored, "split"),
        HeldOut(_found(held_out.get("paths", []), file.parent), held_out.get("drop", True)),
    )


def _source(number: int, values: Mapping[str, Any], base: Path) -> Source:
    if not isinstance(values, dict):
        raise SettingsError(f"source {number + 1} must be a [[sources]] table, got {values!r}")
    asked = [item.name for item in fields(HubDataset) if item.name != "name"]
    of_kind = ("dataset", *asked) if "dataset" in values else ("paths", "dataset")
    name = str(values.get("name", number + 1))
    _refuse_unknown(values, ("name", "weight", *of_kind), f"source {number + 1}")
    _check(f"source {name}: weight", values.get("weight", 1.0), 1.0)
    weight = float(values.get("weight", 1.0))
    if "dataset" in values:
        for key in ("dataset", *asked):
            _check(f"source {name}: {key}", values.get(key, ""), "")
        chosen = {key: values[key] for key in asked if key in values}
        return Source(name, (), weight, HubDataset(_near(values["dataset"], base), **chosen))
    files = _found(values.get("paths", []), base)
    if not files:
        raise DataError(f"source {name} has no files: give paths = [...]")
    return Source(name, files, weight)


def _near(dataset: str, base: Path) -> str:
    """A folder beside the recipe, or a name on the Hub."""
    return str(base / dataset) if (base / dataset).is_dir() else dataset


def _found(paths: Sequence[str], base: Path) -> tuple[Path, ...]:
    _check("paths", paths, ())
    files: list[Path] = []
    for path in paths:
        whole = str(base / path)
        matches = sorted(glob.glob(whole, recursive=True)) if glob.has_magic(whole) else [whole]
        if not matches:
            raise DataError(f"no file matches {whole}; check the path")
        files += data_files(matches)
    return tuple(files)


def _part(kind: Any, stored: Mapping[str, Any], name: str) -> Any:
    values = _table(stored, name)
    _refuse_unknown(values, [item.name for item in fields(kind)], name)
    for item in fields(kind):
        if item.name in values:
            _check(f"{name}: {item.name}", values[item.name], item.default)
    if "languages" in values:
        values["languages"] = tuple(values["languages"])
    return kind(**values)


def _table(stored: Mapping[str, Any], name: str) -> dict[str, Any]:
    values = stored.get(name, {})
    if not isinstance(values, dict):
        raise SettingsError(f"{name} must be a table, [{name}], got {values!r}")
    return dict(values)


def _check(where: str, value: Any, like: Any) -> None:
    """Raises `SettingsError` where a value is not of the kind of `like`, or is below zero."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    if isinstance(like, bool):
        wanted, fits = "true or false", isinstance(value, bool)
    elif isinstance(like, int):
        wanted, fits = "a whole number of at least 0", number and isinstance(value, int)
    elif isinstance(like, float):
        wanted, fits = "a number of at least 0", number
    elif isinstance(like, str):
        wanted, fits = "a text", isinstance(value, str)
    else:
        wanted = 'a list of texts, ["..."]'
        fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if not fits:
        raise SettingsError(f"{where} must be {wanted}, got {value!r}")


def _refuse_unknown(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in values:
        if name not in known:
            raise SettingsError(f"{where}: unknown key {name!r}; known: {', '.join(known)}")
