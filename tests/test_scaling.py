"""What docs/scaling.md reckons with was measured, and it reckons right."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
TEXT = " ".join((ROOT / "docs" / "scaling.md").read_text().split())
TABLES = (ROOT / "benchmarks" / "RESULTS.md").read_text()
TOLD = "lmapps-http int8"
MESSAGES, TOKENS, READ = 167, 33_300, 10_000
"""In a second, of 10,000 people."""
LOAD = 0.7


def results(name: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text()))


def speed(shape: str, what: str) -> float:
    """Tokens a second, as they stand in the table too."""
    found = median(results("serving")["shapes"][shape]["tokens/s"][what][TOLD])
    table = TABLES.partition(f"### {shape} (")[2].partition("###")[0]
    (row,) = re.findall(rf"^\| {TOLD} .*", table, re.M)
    assert f"| {found:.0f} (" in row, f"{what} of {shape} is not what RESULTS.md says"
    return found


def told(*words: str) -> None:
    for word in words:
        assert re.search(rf"(?<![\d.]){re.escape(word)}(?!\d)", TEXT), f"scaling.md lacks {word!r}"


@pytest.mark.parametrize("shape", ["10M", "30M"])
def test_the_engines_follow_from_what_was_measured(shape: str) -> None:
    written, read = speed(shape, "32 streams"), speed(shape, "prefill 1024")
    short = speed(shape, "prefill 128")
    work = TOKENS / written + READ / read
    told(f"{written:,.0f}", f"{read:,.0f}", f"{short:,.0f}", f"{work:.1f}")
    engines = math.ceil(work / LOAD)
    assert re.search(rf"\*\*[^*]*\b{engines} (engines of two cores )?for {shape}", TEXT)
    told(f"{math.ceil((TOKENS / written + READ / short) / LOAD)}")
    if shape == "10M":
        seconds = 200 * 32 / written
        told(f"{seconds:.1f} s and {MESSAGES * seconds:.0f} are under way")
        told(f"{engines} engines of 32 slots have room for {engines * 32}")


def test_the_page_servers_follow_from_what_was_measured() -> None:
    page = results("page")["measured"]

    def in_table(name: str) -> float:
        assert f"| {name} | {page[name]:.3g} |" in TABLES
        return float(page[name])

    def seconds(crowd: str) -> float:
        """Of the page, for a token."""
        alone = in_table(f"{crowd}: tokens a second, engine alone")
        through = in_table(f"{crowd}: tokens a second, page")
        told(f"{alone:,.0f}", f"{through:,.0f}")
        return 1 / through - 1 / alone

    in_table("bytes of an update, 2 turns")
    in_table("MB of an open tab")
    long, short = seconds("60 streaming"), seconds("60 with short replies, asking at once")
    token = (300 * long - 50 * short) / 250
    message = 50 * short - 50 * token
    told(f"{page['MB of an open tab']:.3f} MB")
    told(f"{token * 1000:.3f} ms | {TOKENS * token:.1f}")
    told(f"{message * 1000:.1f} ms | {MESSAGES * message:.1f}")
    work = TOKENS * token + MESSAGES * message + TOKENS * 0.09e-3 + 10_000 * 0.4e-3
    processes = math.ceil(work / LOAD)
    told(f"{work:.1f} seconds a second are **{processes} processes**, with {10_000 // processes}")
