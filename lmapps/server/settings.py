"""Command line -> `ServeSettings`: where the server listens and what it serves."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass

from lmapps.errors import SettingsError
from lmapps.native import WEIGHTS


@dataclass(frozen=True)
class ServeSettings:
    """Raises `SettingsError` for a value out of range."""

    checkpoint: tuple[str, ...] = ("default",)
    """The models: checkpoint folders or names, each PLACE or NAME=PLACE; the first is the one that
    answers whoever names none. Others in the checkpoint folders are loaded when asked for."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 = every network the machine is in."""
    port: int = 7860
    slots: int = 16
    """Requests that run at once; more of them wait their turn."""
    queue: int = 256
    """Requests that may wait before others are refused."""
    database: str = ""
    """Where conversations are kept: an SQLAlchemy URL; '' = lmapps.db in the data folder."""
    weights: str = "float32"
    """The precision that the model is used in: float32, bfloat16 or int8."""
    memory: float = 0.0
    """GiB that all loaded models together may take; 0 = half of the machine's."""

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise SettingsError(
                f"weights must be one of {', '.join(WEIGHTS)}, got {self.weights!r}"
            )
        for name, low, high in (
            ("port", 1, 65535), ("slots", 1, 1024), ("queue", 0, 100_000), ("memory", 0, 2**20),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(f"{name} must be between {low} and {high}, got {value}")

    @property
    def memory_bytes(self) -> float:
        """What all loaded models together may take."""
        if self.memory:
            return self.memory * 2**30
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
        return pages * os.sysconf("SC_PAGE_SIZE") / 2 if pages > 0 else float("inf")

    @property
    def url(self) -> str:
        """What a browser on this machine opens."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def listen(self) -> socket.socket:
        """The socket to serve on. Raises `SettingsError` where the port is in use."""
        family = socket.AF_INET6 if _is_v6(self.host) else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
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


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
