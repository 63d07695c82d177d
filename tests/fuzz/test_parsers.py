"""Whatever bytes come in, what reads them says one sentence or goes on: nothing else is raised."""

from __future__ import annotations

import platform
import re
import resource
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import missing

NAMES = [
    *("safetensors", "config", "names", "run", "gguf", "recipe", "plugin", "template", "document"),
    *("conversation", "request"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A sound input with a few bytes exchanged, cut out, doubled or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        span = draw(st.sampled_from([0, 1, 4, 8, 100]))
        put = draw(st.sampled_from([b"", b"\xff" * 8, b"\0" * 8, b"-1", b"1e999"]) | st.binary())
        data[at : at + span] = put
    return bytes(data)


@pytest.mark.parametrize("name", NAMES)
def test_changed_and_made_up_bytes_get_a_sentence(
    harness: ModuleType, seeds: dict[str, list[bytes]], name: str
) -> None:
    run(harness, seeds, name, 60)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_many_changed_and_made_up_bytes_get_a_sentence(
    harness: ModuleType, seeds: dict[str, list[bytes]], name: str
) -> None:
    run(harness, seeds, name, 3000)


def run(harness: ModuleType, seeds: dict[str, list[bytes]], name: str, examples: int) -> None:
    assert set(NAMES) == set(harness.HARNESSES)
    for seed in seeds[name][:1]:
        harness.HARNESSES[name](seed) if name != "safetensors" else None  # it is cut
    described = JSON.map(lambda value: __import__("json").dumps(value).encode())

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(changed(seeds[name]) | st.binary(max_size=300) | described)
    def check(data: bytes) -> None:
        harness.expected(harness.HARNESSES[name], data)

    check()


HOSTILE_GGUF = {
    "a long array": b"GGUF" + b"\3\0\0\0" + (0).to_bytes(8, "little") + (1).to_bytes(8, "little")
    + (1).to_bytes(8, "little") + b"a" + (9).to_bytes(4, "little") + (0).to_bytes(4, "little")
    + (2**60).to_bytes(8, "little"),
    "many fields": b"GGUF" + b"\3\0\0\0" + b"\0" * 8 + b"\xff" * 7 + b"\x7f",
    "many tensors": b"GGUF" + b"\3\0\0\0" + b"\xff" * 7 + b"\x7f" + b"\0" * 8,
    "a long name": b"GGUF" + b"\3\0\0\0" + b"\0" * 8 + b"\1" + b"\0" * 7 + b"\xff" * 8,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_GGUF)
def test_a_gguf_file_that_counts_what_it_does_not_have_takes_no_memory(
    harness: ModuleType, name: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    harness.expected(harness.HARNESSES["gguf"], HOSTILE_GGUF[name] + b"\0" * 500)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_a_few_thousand_tries_guided_by_coverage_find_nothing(
    harness: ModuleType, seeds: dict[str, list[bytes]], tmp_path: Path
) -> None:
    told = guided(harness, seeds, "all", tmp_path, "-runs=2000", "-max_total_time=3")
    assert len(re.findall(r"^Done \d+ runs", told, re.M)) == len(NAMES)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_fuzzing_guided_by_coverage_finds_nothing(
    harness: ModuleType, seeds: dict[str, list[bytes]], name: str, tmp_path: Path
) -> None:
    guided(harness, {name: seeds[name]}, name, tmp_path, "-max_total_time=30")


def guided(
    harness: ModuleType, seeds: dict[str, list[bytes]], name: str, folder: Path, *options: str
) -> str:
    """What atheris says of one harness, or of all."""
    if find_spec("atheris") is None:
        if (sys.platform, platform.machine()) == ("linux", "x86_64"):
            missing("atheris is not installed: `pip install -e '.[test]'`")
        pytest.skip("atheris is not made for this machine")
    for each, own in seeds.items():
        (folder / each).mkdir()
        for number, seed in enumerate(own):
            (folder / each / str(number)).write_bytes(seed)
    words: list[Any] = [
        sys.executable, harness.__file__, name, folder if name == "all" else folder / name,
        "-timeout=20", "-rss_limit_mb=4096", f"-artifact_prefix={folder}/found-", *options,
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr
