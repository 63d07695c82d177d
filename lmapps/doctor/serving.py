"""The settings of `lmapps serve` -> whether a server could start with them on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

from lmapps.doctor.finding import Finding
from lmapps.errors import SettingsError
from lmapps.server.settings import ServeSettings


def look_at_serving(settings: ServeSettings) -> Iterator[Finding]:
    """The address, and who the server would run as."""
    try:
        settings.listen().close()
        yield Finding("address", settings.url)
    except SettingsError as error:
        told, _, way_out = str(error).rpartition(": ")
        yield Finding("address", told, way_out, fatal=True)
    if hasattr(os, "geteuid") and os.geteuid() == 0 and not os.environ.get("CI"):
        told = "this is the user root: a plugin's mistake could change the whole machine"
        yield Finding("user", told, "run the server as a user of its own (deploy/lmapps.service)")
