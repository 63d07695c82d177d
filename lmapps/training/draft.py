"""What a person chose on a form -> `TrainSettings` of a run whose data and start are known here."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmapps.errors import SettingsError
from lmapps.paths import checkpoint_folders
from lmapps.training.runs import check_name
from lmapps.training.settings import TrainSettings
from lmapps.training.texts import place_of

BYTES_PER_PARAMETER = 12
"""Of a weight, its gradient and what the optimizer keeps of it, at least."""


@dataclass(frozen=True)
class Draft:
    """The fields of the form."""

    name: str = ""
    places: Sequence[str] = ()
    """Names in the data folder; with `apps` as PLUGIN=NAME."""
    apps: Sequence[str] = ()
    start_from: str = ""
    """The name of a checkpoint; '' = a new model."""
    body: str = "transformer"
    size: str = "tiny"
    minutes: float = 10.0
    more: str = ""
    """Further settings as in a recipe, which win over the fields above."""


def settings_of(draft: Draft, folder: Path) -> TrainSettings:
    """The settings of a run in a new folder inside `folder`.

    Raises `SettingsError` or `DataError` for what does not fit, is not there or lies outside the
    data folder.
    """
    check_name(draft.name.strip())
    more = _read(draft.more)
    values: dict[str, Any] = {"data": draft.places, "minutes": draft.minutes}
    if draft.start_from:
        values["start_from"] = draft.start_from
    else:
        values |= {"model": draft.body, "size": draft.size}
    if draft.apps:
        values["apps"] = draft.apps
        values.setdefault("start_from", "default")
    if any(name in more for name in ("steps", "tokens", "minutes")):
        del values["minutes"]
    values |= more
    for name in ("data", "mix_data"):
        if name in values:
            values[name] = [_placed(entry) for entry in values[name]]
    if values.get("start_from"):
        values["start_from"] = str(checkpoint(str(values["start_from"])))
    return TrainSettings.from_values({**values, "out": str(folder / draft.name.strip())})


def checkpoints() -> list[str]:
    """The names of those that can be gone on from."""
    found = [
        place.parent.name
        for folder in checkpoint_folders()
        for place in sorted(folder.glob("*/config.json"))
    ]
    return list(dict.fromkeys(found))


def checkpoint(name: str) -> Path:
    """A checkpoint by its name. Raises `SettingsError` for one not there, or a path."""
    for folder in checkpoint_folders():
        if Path(name).name == name and (folder / name / "config.json").is_file():
            return folder / name
    raise SettingsError(
        "there is no checkpoint {name!r} to go on from: choose one of the list", name=name
    )


def check_memory(settings: TrainSettings) -> None:
    """Raises `SettingsError` where not even the weights with what training keeps of them fit."""
    import torch

    from lmapps.training.forecast import room
    from lmapps.training.foresee import config_of

    count = config_of(settings).parameters
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = room(device)
    if there is not None and count * BYTES_PER_PARAMETER > there:
        raise SettingsError(
            "a model of {millions:,.0f} million parameters takes at least {needed:,.1f} GB to "
            "train, and {free:,.1f} GB are free: choose a smaller size",
            millions=count / 1e6,
            needed=count * BYTES_PER_PARAMETER / 1e9,
            free=there / 1e9,
        )


def _read(more: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(more)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            "the further settings cannot be read, {error}: a line is like dropout = 0.1",
            error=error,
        ) from None
    values.pop("out", None)  # a recipe has one; here the name says it
    for name in ("data", "mix_data", "apps"):
        if name in values and not isinstance(values[name], list):
            raise SettingsError("{name} is a list, got {value!r}", name=name, value=values[name])
    return values


def _placed(entry: Any) -> str:
    """A name in the data folder as a path; PLUGIN=NAME keeps its plugin."""
    plugin, separator, name = str(entry).rpartition("=")
    return f"{plugin}{separator}{place_of(name)}"
