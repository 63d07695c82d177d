"""The Host and Origin of a request -> whether it may be answered here.

A page of another site that somebody has open can send requests to a server on their own machine
or in their network. Two checks keep it out. The name by which the server was called must be one
of its own: an attacker's domain that points at 127.0.0.1 (DNS rebinding) is none. And a request
that a browser sends for another site's page, which it says in `Origin` or `Sec-Fetch-Site`, is
refused. Programs send neither and are not concerned.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from lmapps.errors import InputError

_PORTS = {"http": 80, "https": 443}


class WrongHost(InputError):
    """Called by a name that is not this server's."""

    status = 421


class ForeignPage(InputError):
    """Sent by a browser for a page of another site."""

    status = 403


class Hosts:
    """The names by which a server may be called.

    Always: IP addresses, `localhost`, names without a dot and this machine's own name, since
    nobody can make a domain on the internet out of these. names: others, as behind a proxy; with
    a port (lm.example.org:8443) where it is not the usual one and the proxy does not pass it on.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names, self._given = set[str](), set[str]()
        self.rename(names)

    def rename(self, names: Iterable[str]) -> None:
        """Other names from now on."""
        own = socket.gethostname().lower()
        self._given = {name.strip().lower() for name in names} - {""}
        self._names = {own, f"{own}.local", *map(_name, self._given)}

    def check(self, method: str, headers: Mapping[str, str]) -> None:
        """Raises `WrongHost` or `ForeignPage`."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if host and not self.is_own(host):
            raise WrongHost(
                f"this server is not called {_name(host)!r}: if it should be, start it with "
                f"--hosts {_name(host)}"
            )
        site = headers.get("sec-fetch-site")
        # "same-site" is another port or subdomain.
        is_foreign = site in ("cross-site", "same-site") and not _is_link(method, headers)
        if origin is not None and not is_foreign:
            is_foreign = not self._is_same(origin, host, site == "same-origin")
        if is_foreign:
            raise ForeignPage(
                f"a page of {origin or 'another site'} may not use this server: open {host} itself"
            )

    def is_own(self, host: str) -> bool:
        """Whether a `Host` is this server's."""
        name = _name(host)
        if name in self._names or "." not in name or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_same(self, origin: str, host: str, is_told: bool) -> bool:
        """Whether an `Origin` is that of this server's page. Its port is compared, unless the
        browser has told that they are the same, since a proxy may not pass it on."""
        try:
            parts = urlsplit(origin)
            usual = _PORTS[parts.scheme]
            name, port = parts.hostname or "", parts.port or usual
            asked = urlsplit(f"//{host}").port or usual
        except (ValueError, KeyError):
            return False
        if f"{name}:{port}" in self._given:
            return True
        if name == _name(host):
            return is_told or port == asked
        # The proxy keeps the name by which it was called to itself.
        return name in self._names if is_told else name in self._given and port == usual


def _is_link(method: str, headers: Mapping[str, str]) -> bool:
    """Somebody follows a link to the page, or opens it in a new window."""
    return (
        method in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _name(host: str) -> str:
    """A `Host` without its port, its brackets and the dot at its end."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")
