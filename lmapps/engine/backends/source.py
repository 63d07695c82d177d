"""A word that a person typed -> where a model comes from, and the backend that serves it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from lmapps.engine.admission import ANY, Lengths
from lmapps.engine.backends.fleet import urls_of
from lmapps.engine.devices import on_gpu
from lmapps.errors import CheckpointError, ModelTooLarge, SettingsError
from lmapps.paths import checkpoint_folders, find_checkpoint

if TYPE_CHECKING:
    from lmapps.engine.backends.backend import Backend
    from lmapps.engine.engine import Engine
    from lmapps.model.config import ModelConfig
    from lmapps.native.step import Step

HUB = "hf:"
"""Begins the name of a model on the Hugging Face Hub."""
KEY = "LMAPPS_KEY_"
"""Begins the environment variable with the key of another server's model: its name follows."""
_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """Where a model comes from, under the name that people call it by."""

    name: str
    place: str
    """A folder; `hf:OWNER/NAME`; or the URL of a server's API, or of several that have the same
    model, with commas between them, and with `#MODEL` where they have several."""

    @property
    def is_url(self) -> bool:
        return self.place.lower().startswith(("http://", "https://"))

    @property
    def is_hub(self) -> bool:
        return self.place.startswith(HUB)

    @property
    def folder(self) -> Path | None:
        """The checkpoint folder, where it is one."""
        return Path(self.place) if self.place and not (self.is_url or self.is_hub) else None

    @property
    def key_name(self) -> str:
        """The environment variable that holds the key for its server."""
        return KEY + re.sub(r"\W", "_", self.name).upper()


@dataclass(frozen=True)
class Opening:
    """How a model is opened."""

    slots: int = 16
    """Requests that run at once."""
    queue: int = 256
    """Requests that may wait."""
    weights: str = "float32"
    """The precision that it is used in: float32, bfloat16 or int8."""
    devices: tuple[str, ...] = ("cpu",)
    """Where; each of several GPUs has a copy of a model of ours."""
    lengths: Lengths = ANY
    """The longest prompt and reply, where they are shorter than the model's context."""


USUAL = Opening()


def source_of(word: str) -> Source:
    """`NAME=PLACE`, or a place alone, whose name is its last part.

    Raises `SettingsError` for a URL that is none or has a password in it, and for a model on the
    Hub without an owner.
    """
    named = _NAMED.fullmatch(word)
    name, place = named.groups() if named else ("", word)
    source = Source(name, place)
    if source.is_url:
        first, *others = map(_parts_of, urls_of(place))
        fragment = (others or [first])[-1].fragment
        return Source(name or fragment or first.netloc, place)
    if source.is_hub:
        model = place.removeprefix(HUB).lstrip("/")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
            raise SettingsError(f"a model on the Hub is written hf:OWNER/NAME, got {place!r}")
        return Source(name or model.split("/")[1], HUB + model)
    folder = find_checkpoint(place)
    return Source(name or folder.resolve().name, str(folder))


def _parts_of(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        reason = "" if parts.port or parts.hostname else "it names no server"
    except ValueError as error:
        reason = str(error)
    if not reason and (parts.username or parts.password):
        raise SettingsError(
            f"the URL of {parts.hostname} holds a password, which everybody on this machine "
            f"sees: leave it out, and set the environment variable {KEY}NAME to the key"
        )
    if not reason:
        return parts
    raise SettingsError(
        f"{url!r:.200} is no URL ({reason}): write http://HOST:PORT/v1, up to and with /v1"
    )


def found_sources() -> dict[str, Source]:
    """Every checkpoint in the checkpoint folders, by name; the first of a name counts."""
    found: dict[str, Source] = {}
    for folder in checkpoint_folders():
        for place in sorted(folder.iterdir()) if folder.is_dir() else []:
            if (place / "config.json").is_file():
                found.setdefault(place.name, Source(place.name, str(place)))
    return found


def open_backend(source: Source, opening: Opening = USUAL) -> Backend:
    """Load a model, or reach its server.

    A folder is read by our own model where that knows its kind, else by transformers. Raises
    `CheckpointError` or `ModelServerError` with the reason where that is not possible, and
    `ModelTooLarge` where memory ends in its middle.
    """
    from lmapps.memory import is_out_of_memory

    try:
        return _opened(source, opening)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelTooLarge(
            "there is not enough memory to load the model {name!r} now: free another one, "
            "choose a smaller one, or fewer --slots",
            name=source.name,
        ) from None


def _opened(source: Source, opening: Opening) -> Backend:
    if source.is_url:
        from lmapps.engine.backends.openai import OpenAIBackend

        url, _, model = source.place.partition("#")
        key = os.environ.get(source.key_name, "")
        return OpenAIBackend.connect(source.name, url, model, key, opening.queue, opening.lengths)
    folder = source.folder or _fetched(source)
    if native_config(folder):
        return _ours(folder, source.name, opening)
    from lmapps.engine.backends.transformers import load

    foreign = load(folder, opening.devices[0], opening.weights)
    return _engine(foreign, foreign.step, source.name, opening)


def _engine(model: Any, step: Step | None, name: str, opening: Opening) -> Engine:
    """`model` is a checkpoint, or what transformers loaded."""
    from lmapps.engine.engine import Engine

    return Engine(
        model, slots=opening.slots, queue=opening.queue, name=name, step=step,
        lengths=opening.lengths,
    )  # fmt: skip


def _ours(folder: Path, name: str, opening: Opening) -> Backend:
    """An engine on each device, and what places requests where there are several."""
    import torch

    from lmapps.engine.backends.replicas import Replicas
    from lmapps.model.checkpoint import Checkpoint
    from lmapps.native.step import choose_step

    # On a GPU there is no second copy of the weights: they are read as they will be used.
    is_bf16 = on_gpu(opening.devices) and opening.weights == "bfloat16"
    dtype = torch.bfloat16 if is_bf16 else torch.float32
    engines: list[Engine] = []
    try:
        for device in opening.devices:
            checkpoint = Checkpoint.load(folder, device=device, dtype=dtype)
            step = choose_step(checkpoint.model, opening.weights, served=True)
            engines.append(_engine(checkpoint, step, name, opening))
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return engines[0] if len(engines) == 1 else Replicas(engines)


def native_config(folder: Path) -> ModelConfig | None:
    """The shape of a folder's model, where our own reads it; None where transformers has to. Raises
    `CheckpointError` where it is no model's."""
    from lmapps.model.folder import read_json, understand

    stored = read_json(folder, "config.json")
    try:
        return understand(stored, folder)
    except CheckpointError:
        return None


def fetch(source: Source) -> None:
    """Bring a model's files here, where it is one of the Hub. Raises `CheckpointError`."""
    if source.is_hub:
        _fetched(source)


def cached(source: Source) -> Path | None:
    """The folder of a model of the Hub, as far as it was downloaded; None where nothing was."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        found = snapshot_download(source.place.removeprefix(HUB), local_files_only=True)
    except (HFValidationError, OSError):
        return None
    return Path(found)


def _fetched(source: Source) -> Path:
    """The folder of a model on the Hub, downloaded where it is not there yet: safetensors, the
    tokenizer and the configuration, and nothing that could run."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HFValidationError,
        HTTPError,  # its HTTP client's, which has had other names
        LocalEntryNotFoundError,
    )

    name = source.place.removeprefix(HUB)
    patterns = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            "the model {name!r} cannot be fetched from the Hub: {reason}", name=name, reason=reason
        ) from None
