"""A Hugging Face data set -> documents, read as a stream: nothing of it is kept on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lmapps.errors import DataError, SettingsError
from lmapps.text.sources import Document, without_lone_surrogates


@dataclass(frozen=True)
class HubDataset:
    """What `datasets.load_dataset` is asked for: a name on the Hub, or a folder of data files."""

    name: str
    config: str = ""
    split: str = "train"
    revision: str = ""
    """A commit, branch or tag; without, what is there today."""
    text: str = "text"
    """The field that holds the document."""

    def __str__(self) -> str:
        parts = (self.name, self.config, self.split, self.revision)
        return " ".join(part for part in parts if part)


def read_dataset(wanted: HubDataset) -> Iterator[Document]:
    """Its documents, in order. Raises `DataError` where it cannot be read or has no such field."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise SettingsError(
            f"the data set {wanted.name} needs the package datasets: pip install 'lmapps[datasets]'"
        ) from None
    count = 0
    try:
        records = load_dataset(
            wanted.name,
            wanted.config or None,
            split=wanted.split,
            revision=wanted.revision or None,
            streaming=True,
        )
        for number, record in enumerate(records, start=1):
            body = record.get(wanted.text)
            if not isinstance(body, str):
                raise DataError(
                    f"data set {wanted}, record {number}: no text in the field {wanted.text!r} "
                    f'(fields: {", ".join(record)}); name another one with text = "..."'
                )
            if body.strip():
                count += 1
                yield Document(without_lone_surrogates(body), f"{wanted}:{number}")
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the data set {wanted} cannot be read ({_first_line(error)}): check its name, config "
            "and split, and that this machine is online"
        ) from None
    if not count:
        raise DataError(f"the data set {wanted} has no documents")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
