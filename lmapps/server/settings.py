"""`ServeSettings`: where the server listens, what it serves, and to whom. See `configured.py`."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from lmapps.engine.devices import AUTO
from lmapps.errors import SettingsError
from lmapps.native import WEIGHTS
from lmapps.server.gate.log import FORMATS, LEVELS


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float = 0,
    among: Sequence[str] = (),
    live: bool = False,
) -> Any:
    """A setting: what it is without being set, what it means, and which values it takes.

    Its type is its default's. `docs/operations.md` and `lmapps serve --help` show the text. `live`:
    a running server takes another value over when it is told to read its settings again.
    """
    takes = {"range": (low, high), "among": among}
    return field(default=default, metadata={"help": help, "live": live, "takes": takes})


@dataclass(frozen=True)
class ServeSettings:
    """Raises `SettingsError` for a value out of range or of another type."""

    checkpoint: tuple[str, ...] = setting(
        ("default",),
        "the models: checkpoint folders or names, as they are or as NAME=PLACE; the first answers "
        "whoever names none. Others in the checkpoint folders are loaded when asked for",
    )
    host: str = setting("127.0.0.1", "the address to listen on; 0.0.0.0 = every network")
    port: int = setting(7860, "the port to listen on", low=1, high=65535)
    public: bool = setting(
        False,
        "let everybody in who reaches an address of a network, or comes through a proxy, "
        "though nobody has an account",
    )
    hosts: tuple[str, ...] = setting(
        (), "names by which the server may be called, as behind a proxy: lm.example.org", live=True
    )
    root_path: str = setting(
        "", "the path under which a proxy shows the server, as /lmapps; '' = at the root"
    )
    proxies: tuple[str, ...] = setting(
        ("127.0.0.1", "::1"),
        "addresses and networks (10.0.0.0/8) of proxies, which are believed when they say whom "
        "they pass on and whether over TLS",
    )
    log: str = setting("info", f"how much is logged: {', '.join(LEVELS)}", among=LEVELS, live=True)
    log_format: str = setting(
        "words", "how a line of the log is written: words (key=value) or json", among=FORMATS,
        live=True,
    )  # fmt: skip
    log_prompts: bool = setting(
        False, "whether the log may quote what people wrote, where a plugin fails on it", live=True
    )
    grace: float = setting(
        30.0, "seconds that replies may go on when the server is told to stop", low=0, high=3600,
        live=True,
    )  # fmt: skip
    database: str = setting(
        "", "SQLAlchemy URL of conversations and accounts; '' = lmapps.db in the data folder"
    )
    slots: int = setting(
        16, "requests that run at once; more of them wait their turn", low=1, high=1024
    )
    queue: int = setting(
        256, "requests that may wait before others are refused", low=0, high=100_000
    )
    longest_prompt: int = setting(
        0, "tokens of a prompt; a conversation's oldest turns are left out to fit; 0 = as many as "
        "the model's context has room for", low=0, high=2**31 - 1,
    )  # fmt: skip
    longest_reply: int = setting(
        0, "tokens of a reply, whatever is asked for; 0 = as many as the model's context has room "
        "for", low=0, high=2**31 - 1,
    )  # fmt: skip
    weights: str = setting(
        AUTO, f"precision of the models: {', '.join(WEIGHTS)} (smaller is faster), or {AUTO}: "
        "bfloat16 on a GPU, else float32", among=(AUTO, *WEIGHTS),
    )  # fmt: skip
    memory: float = setting(
        0.0, "GiB that loaded models may take together; 0 = half of the machine's or container's "
        "memory, or nine tenths of the GPUs'",
        low=0, high=2**20, live=True,
    )  # fmt: skip
    requests_a_minute: int = setting(
        0, "requests that a user may make in a minute, where `lmapps users limits` says nothing "
        "else; 0 = as many as they like", low=0, high=2**31 - 1, live=True,
    )  # fmt: skip
    tokens_a_day: int = setting(
        0,
        "tokens of replies that a user may get in a day (UTC), the same way; 0 = no limit",
        low=0,
        high=2**31 - 1,
        live=True,
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item.name, getattr(self, item.name), item.default, **item.metadata["takes"])
        for proxy in self.proxies:
            _check_network(proxy)
        for name in self.hosts:
            _check_host(name)
        if self.root_path and not re.fullmatch(r"(/[\w.~-]+)+", self.root_path, re.A):
            raise SettingsError(
                f"root_path begins with / and does not end so, as /lmapps, got {self.root_path!r}"
            )
        if not self.checkpoint:
            raise SettingsError("checkpoint must name at least one model, got none")

    @property
    def memory_bytes(self) -> float:
        """What all loaded models together may take; 0 where that is not said."""
        return self.memory * 2**30

    @property
    def url(self) -> str:
        """What a browser on this machine opens."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine reach the server, and none of them is a proxy."""
        if self.hosts:
            return False
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def listen(self) -> socket.socket:
        """The socket to serve on. Raises `SettingsError` where the port is in use."""
        family = socket.AF_INET6 if _is_v6(self.host) else socket.AF_INET
        # TCP is named: asyncio sets TCP_NODELAY only then. Without, what is written in two pieces,
        # as each answer on a kept connection, waits 40 ms for the other side.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((self.host, self.port))
        except OSError as error:
            listening.close()
            raise SettingsError(
                f"cannot listen on {self.host} port {self.port} ({error.strerror}): is another "
                "server running there? Choose a free port with --port"
            ) from None
        return listening


def _check(
    name: str,
    value: Any,
    default: Any,
    range: tuple[float | None, float],
    among: Sequence[str],
) -> None:
    """Raises `SettingsError` for a value that the setting does not take."""
    kind, (low, high) = type(default), range
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = is_number if kind is float else type(value) is kind
    if not fits or (kind is tuple and not all(isinstance(one, str) for one in value)):
        wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise SettingsError(f"{name} must be {wanted.get(kind, 'a list of texts')}, got {value!r}")
    if low is not None and not low <= value <= high:
        raise SettingsError(f"{name} must be between {low} and {high}, got {value}")
    if among and value not in among:
        raise SettingsError(f"{name} must be one of {', '.join(among)}, got {value!r}")


def _check_network(proxy: str) -> None:
    try:
        ipaddress.ip_network(proxy)
    except ValueError as error:
        raise SettingsError(f"proxies must be addresses or networks: {error}") from None


def _check_host(name: str) -> None:
    """With anything else everybody would be refused who calls the server by it."""
    bare = re.sub(r":\d{1,5}$", "", name.strip())
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", bare, re.A) and not _is_address(name):
        raise SettingsError(
            "hosts are names, with a port where it is an unusual one, and without http:// or a "
            f"path, as lm.example.org or lm.example.org:8443, got {name!r}"
        )


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
