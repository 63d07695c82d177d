"""What an engine needs of a model, so that it need not know whose it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch

from lmapps.text.template import Template
from lmapps.text.tokenizer import Tokenizer


class Shape(Protocol):
    """How large a model is."""

    @property
    def body(self) -> str: ...

    @property
    def parameters(self) -> int: ...

    @property
    def context(self) -> int: ...


class Network(Protocol):
    """Weights on a device."""

    @property
    def config(self) -> Shape: ...

    @property
    def device(self) -> torch.device: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


class Served(Protocol):
    """What it takes to turn messages into a reply: our `Checkpoint`, or a foreign model."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path | None: ...

    @property
    def model(self) -> Network: ...

    @property
    def config(self) -> Shape: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def template(self) -> Template: ...
