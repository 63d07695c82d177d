"""A settings file, the environment and the command line say the same things in the same words."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import socket
import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from lmapps.__main__ import main
from lmapps.errors import SettingsError
from lmapps.server.configured import _shown, add_settings, documented, settings_of, variable
from lmapps.server.settings import ServeSettings

GIVEN: dict[str, tuple[str, Any]] = {
    "checkpoint": ("mine other=/some/where", ("mine", "other=/some/where")),
    "host": ("::1", "::1"),
    "port": ("8001", 8001),
    "public": ("true", True),
    "hosts": ("lm.example.org:8443 lm", ("lm.example.org:8443", "lm")),
    "root_path": ("/lm/apps", "/lm/apps"),
    "proxies": ("10.0.0.0/8 ::1", ("10.0.0.0/8", "::1")),
    "log": ("debug", "debug"),
    "log_format": ("json", "json"),
    "log_prompts": ("on", True),
    "grace": ("2.5", 2.5),
    "database": ("sqlite:///x.db", "sqlite:///x.db"),
    "slots": ("3", 3),
    "queue": ("0", 0),
    "longest_prompt": ("4000", 4000),
    "longest_reply": ("500", 500),
    "weights": ("int8", "int8"),
    "memory": ("2.5", 2.5),
    "requests_a_minute": ("30", 30),
    "tokens_a_day": ("100000", 100_000),
}
"""Each setting as a word, and what it comes to; a new one is told here."""


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "home"))


def read(words: str = "", environment: dict[str, str] | None = None) -> ServeSettings:
    parser = argparse.ArgumentParser()
    add_settings(parser)
    return settings_of(parser.parse_args(words.split()), environment or {})


def test_every_setting_is_the_same_from_a_file_the_environment_and_the_command_line(
    tmp_path: Path,
) -> None:
    expected = ServeSettings(**{name: value for name, (_, value) in GIVEN.items()})
    assert GIVEN.keys() == {item.name for item in fields(ServeSettings)}
    assert all(item.metadata["help"] for item in fields(ServeSettings))
    assert read(environment={variable(name): word for name, (word, _) in GIVEN.items()}) == expected
    words = {f"--{name.replace('_', '-')}": word for name, (word, _) in GIVEN.items()}
    words["--public"] = words["--log-prompts"] = ""
    assert read(" ".join(f"{name} {word}" for name, word in words.items())) == expected
    (tmp_path / "all.toml").write_text(documented(expected))
    assert read(f"--settings {tmp_path / 'all.toml'}") == expected
    assert read(environment={"LMAPPS_SETTINGS": str(tmp_path / "all.toml")}) == expected


def test_a_documented_file_of_the_defaults_changes_nothing(tmp_path: Path) -> None:
    text = documented(ServeSettings())
    assert tomllib.loads(text) == {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(ServeSettings()).items()
    }
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "settings.toml").write_text(text)
    assert read() == ServeSettings()


def test_the_command_line_goes_before_the_environment_and_that_before_the_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "settings.toml").write_text(
        "port = 1\nslots = 1\nqueue = 1\npublic = true"
    )
    settings = read("--port 3 --no-public", {"LMAPPS_PORT": "2", "LMAPPS_SLOTS": "2"})
    assert (settings.port, settings.slots, settings.queue) == (3, 2, 1)
    assert not settings.public


@pytest.mark.parametrize(
    ("file", "environment", "words", "told"),
    [
        ("prot = 1", {}, "", r"file\.toml: there is no setting 'prot'; did you mean port\?"),
        ("xyzzy = 1", {}, "", r"there is no setting 'xyzzy'; known: checkpoint, host"),
        ("port = '80'", {}, "", r"file\.toml: port must be a whole number, got '80'"),
        ("port = true", {}, "", r"port must be a whole number, got True"),
        ("public = 1", {}, "", r"public must be true or false, got 1"),
        ("checkpoint = [1]", {}, "", r"checkpoint must be a list of texts"),
        ("checkpoint = []", {}, "", r"at least one model"),
        ("port = 0", {}, "", r"port must be between 1 and 65535, got 0"),
        ("port = ", {}, "", r"file\.toml cannot be read"),
        ("", {"LMAPPS_PROT": "1"}, "", r"no setting LMAPPS_PROT; did you mean LMAPPS_PORT\?"),
        ("", {"LMAPPS_PORT": "many"}, "", r"LMAPPS_PORT: port must be a whole number, got 'many'"),
        ("", {"LMAPPS_PUBLIC": "perhaps"}, "", r"LMAPPS_PUBLIC: public must be true or false"),
        ("", {"LMAPPS_MEMORY": "nan"}, "", r"memory must be between 0 and"),
        ("root_path = 'lmapps'", {}, "", r"root_path begins with / .* got 'lmapps'"),
        ("root_path = '/a/'", {}, "", r"does not end so, as /lmapps, got '/a/'"),
        ("proxies = ['nginx']", {}, "", r"proxies must be addresses or networks: 'nginx'"),
        ("proxies = ['10.0.0.1/8']", {}, "", r"10.0.0.1/8 has host bits set"),
        (
            "",
            {},
            "--weights int4",
            r"--weights: weights must be one of auto, float32, .*got 'int4'",
        ),
        ("", {}, "--tokens-a-day x", r"--tokens-a-day: tokens_a_day must be a whole number"),
        ("", {}, "--settings /no/such/file", r"settings file /no/such/file cannot be read"),
    ],
)
def test_what_does_not_fit_says_where_it_was_given_and_what_was_meant(
    tmp_path: Path, file: str, environment: dict[str, str], words: str, told: str
) -> None:
    (tmp_path / "file.toml").write_text(file)
    with pytest.raises(SettingsError, match=told):
        read(words or f"--settings {tmp_path / 'file.toml'}", environment)


def test_variables_that_are_no_settings_are_left_alone() -> None:
    others = {"LMAPPS_HOME": "/x", "LMAPPS_NATIVE": "0", "LMAPPS_KEY_GPT": "s", "PATH": "/bin"}
    assert read(environment=others) == ServeSettings()


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("", False), ("192.168.1.5", False), ("lab", False),
    ],
)  # fmt: skip
def test_only_addresses_of_this_machine_are_local(host: str, is_local: bool) -> None:
    assert ServeSettings(host=host).is_local is is_local


def test_the_settings_are_printed_without_a_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("LMAPPS_")]:
        monkeypatch.delenv(name)
    assert main(["settings", "--port", "8001", "--database", "postgresql://me:secret@db/x"]) == 0
    told = capsys.readouterr().out
    assert tomllib.loads(told)["port"] == 8001 and "secret" not in told and "me:***@db/x" in told


def test_the_page_about_running_a_server_has_every_setting_as_it_is() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*?) ?\| (.*) \| (yes|) ?\|$", page, re.M)
    assert [row[0] for row in rows] == [item.name for item in fields(ServeSettings)]
    for item, (name, environment, usual, means, live) in zip(
        fields(ServeSettings), rows, strict=True
    ):
        assert environment == variable(name) and means == item.metadata["help"]
        assert usual.strip("`") == _shown(item.default), name
        assert bool(live) == item.metadata["live"], name


def test_what_is_written_to_whoever_connects_goes_out_at_once() -> None:
    """Else each small answer on a kept connection comes 40 ms late: Nagle's algorithm waits for the
    first piece to be acknowledged, and the other side for more to acknowledge."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = list[int]()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        told.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def connect() -> None:
        async with await asyncio.start_server(answer, sock=ServeSettings(port=port).listen()):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.read()
            writer.close()

    asyncio.run(connect())
    assert told == [1]
