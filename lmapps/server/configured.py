"""A settings file, the environment and a command line -> `ServeSettings`.

Each setting can be given in any of the three: `port = 8000` in the file, `LMAPPS_PORT=8000`,
`--port 8000`. The command line goes before the environment, and the environment before the file.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shlex
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from lmapps.engine.backends.source import KEY
from lmapps.errors import SettingsError
from lmapps.paths import home
from lmapps.server.settings import ServeSettings

PREFIX = "LMAPPS_"
FILE = "LMAPPS_SETTINGS"
"""The environment's variable that names the settings file."""
OTHERS = {FILE, "LMAPPS_HOME", "LMAPPS_NATIVE"}
"""Variables of the environment that are no settings of the server."""
DEST = "setting_"
"""Apart from a command's own words: `lmapps users limits` has limits too."""
LIVE = ", live"
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def add_settings(parser: argparse.ArgumentParser, only: Iterable[str] = ()) -> None:
    """An option for each setting, or for `only` these, and one for the file."""
    chosen = set(only) or {item.name for item in fields(ServeSettings)}
    parser.add_argument(
        "--settings", metavar="FILE", dest=f"{DEST}file", default=None,
        help=f"a TOML file of settings (default: settings.toml in the data folder; {FILE})",
    )  # fmt: skip
    for item in fields(ServeSettings):
        if item.name not in chosen:
            continue
        default = _shown(item.default)
        named = f"--{item.name.replace('_', '-')}"
        help = item.metadata["help"] + f" (default: {default})" * bool(default)
        help = help.replace("%", "%%")
        if isinstance(item.default, bool):
            kind: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        else:
            kind = {"metavar": item.name.upper()}
            kind |= {"nargs": "+"} if isinstance(item.default, tuple) else {}
        parser.add_argument(named, dest=DEST + item.name, default=None, help=help, **kind)


def settings_of(
    args: argparse.Namespace, environment: Mapping[str, str] = os.environ
) -> ServeSettings:
    """All settings, checked. Raises `SettingsError` for a value that does not fit, naming where it
    was given, and for a name that is none."""
    values: dict[str, Any] = {}
    file = _file(args, environment)
    for source in (
        _from_file(file) if file else (), _from_environment(environment), _from_words(args),
    ):  # fmt: skip
        for place, name, value in source:
            try:
                ServeSettings(**{name: value})
            except SettingsError as error:
                raise SettingsError(f"{place}: {error}") from None
            values[name] = value
    return ServeSettings(**values)


def documented(settings: ServeSettings) -> str:
    """Every setting as a TOML file has it, each under what it means and its name in the
    environment; `live` ones count from the next reload on, the others from the next start."""
    parts = []
    for item in fields(settings):
        told = f"{item.metadata['help']} [{variable(item.name)}{LIVE * item.metadata['live']}]"
        about = textwrap.fill(told, 98, initial_indent="# ", subsequent_indent="# ")
        parts.append(f"{about}\n{item.name} = {_as_toml(getattr(settings, item.name))}\n")
    return "\n".join(parts)


def variable(name: str) -> str:
    """The environment's variable of a setting."""
    return PREFIX + name.upper()


Source = Iterator[tuple[str, str, Any]]
"""Where a setting was given, its name, its value."""


def _file(args: argparse.Namespace, environment: Mapping[str, str]) -> Path | None:
    """The settings file, which must be there if it was named."""
    named = getattr(args, f"{DEST}file", None) or environment.get(FILE)
    usual = home() / "settings.toml"
    return Path(named).expanduser() if named else usual if usual.is_file() else None


def _from_file(file: Path) -> Source:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"the settings file {file} cannot be read: {error}") from None
    known = {item.name: item for item in fields(ServeSettings)}
    for name, value in values.items():
        if name not in known:
            raise SettingsError(f"{file}: there is no setting {name!r}{_nearest(name, known)}")
        yield str(file), name, _as_type(value, known[name])


def _from_environment(environment: Mapping[str, str]) -> Source:
    known = {variable(item.name): item for item in fields(ServeSettings)}
    for name, word in environment.items():
        if not name.startswith(PREFIX) or name in OTHERS or name.startswith(KEY):
            continue
        if name not in known:
            near = _nearest(name, [*known, *OTHERS])
            raise SettingsError(f"the environment: there is no setting {name}{near}")
        yield name, known[name].name, _of_word(word, known[name])


def _from_words(args: argparse.Namespace) -> Source:
    for item in fields(ServeSettings):
        value = getattr(args, DEST + item.name, None)
        if value is not None:
            given = _of_word(value, item) if isinstance(value, str) else _as_type(value, item)
            yield f"--{item.name.replace('_', '-')}", item.name, given


def _of_word(word: str, item: Field[Any]) -> Any:
    """A text as the type of the setting; what is none stays a text, and is refused as such."""
    kind: type[Any] = type(item.default)
    try:
        if kind is bool:
            low = word.strip().lower()
            return low in YES if low in (*YES, *NO) else word
        if kind is tuple:
            return tuple(shlex.split(word))
        return kind(word)
    except ValueError:
        return word


def _as_type(value: Any, item: Field[Any]) -> Any:
    """What TOML has for several or for a broken number, as the setting has it."""
    if isinstance(item.default, tuple):
        return tuple(value) if isinstance(value, list) else (value,)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if isinstance(item.default, float) and is_number else value


def _nearest(name: str, known: Iterable[str]) -> str:
    """The name that was meant, perhaps."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"


def _shown(value: Any) -> str:
    """A default in a help text."""
    return " ".join(value) if isinstance(value, tuple) else "" if value is False else str(value)


def _as_toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_as_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else str(value)
