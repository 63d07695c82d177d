"""One thing that was looked at -> a `Finding`: what it is, and what to do where it is not well."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A line of `lmapps doctor`."""

    subject: str
    told: str
    way_out: str = ""
    """What to do; "" where nothing needs to be done."""
    fatal: bool = False
    """Whether something cannot work like this; else it is slower, or incomplete."""

    def __str__(self) -> str:
        mark = "!" if self.fatal else "-" if self.way_out else " "
        line = f"{mark} {self.subject:12} {self.told}"
        return f"{line}\n  {'':12} -> {self.way_out}" if self.way_out else line
