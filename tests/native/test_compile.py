"""The native sources under other compilers' eyes: sanitizers, and ARM by emulation."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from lmapps.doctor.software import _decoding
from lmapps.native import library
from lmapps.native.compile import compile_library
from lmapps.native.library import levels

DRIVER = Path(__file__).parent / "drive.cpp"


def build(folder: Path, compiler: str, *flags: str, machine: str = "") -> Path:
    """drive.cpp, linked with a library of its own."""
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    library = compile_library(
        folder / "libstep.so", compiler=compiler, machine=machine, extra=flags
    )
    program = folder / "drive"
    words = [compiler, *flags, "-std=c++17", "-O1", str(DRIVER), str(library), "-o", str(program)]
    subprocess.run([*words, "-pthread", f"-Wl,-rpath,{folder}"], check=True)
    return program


def logits(output: str) -> dict[tuple[str, ...], list[float]]:
    """(shape, kind, level, threads, rows) -> the last logits of that run; or the sampled ids, with
    "sample" as the shape and the vocabulary's size as the rows."""
    lines = [line.split(":") for line in output.splitlines()]
    return {tuple(head.split()): [float(y) for y in body.split()] for head, body in lines}


def distance(left: list[float], right: list[float]) -> float:
    assert len(left) == len(right)
    square = sum((a - b) ** 2 for a, b in zip(left, right, strict=True))
    return float((square / max(sum(b * b for b in right), 1e-9)) ** 0.5)


TOLERANCE = {"0": 1e-5, "1": 1e-2, "2": 3e-2}
"""By the kind of the weights; with a state in bf16 ("b" behind the shape) none is finer than it."""


def assert_alike(found: dict[tuple[str, ...], list[float]]) -> None:
    """Every instruction set and number of threads agrees with the plain one on one thread."""
    assert len(found) >= 11 * 3 * 2 * 3 + 6 * 2
    for (shape, kind, level, threads, rows), numbers in found.items():
        plain = found[shape, kind, "baseline", "1", rows]
        away = distance(numbers, plain)
        limit = max(TOLERANCE[kind], TOLERANCE["1"]) if "b" in shape else TOLERANCE[kind]
        assert away < limit, f"{shape} {kind} {level} {threads} {rows}: {away}"
        assert shape != "sample" or numbers == plain


OLD_COMPILER = """#!/bin/sh
case " $* " in
  *" -mavx512bf16 "*) echo "error: unrecognized command-line option '-mavx512bf16'" >&2; exit 1 ;;
esac
exec g++ "$@" -O0
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="its flag is one of x86-64")
def test_what_an_old_compiler_does_not_know_is_left_out_and_the_rest_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    monkeypatch.delenv(library.SWITCH, raising=False)
    compiler = tmp_path / "c++"
    compiler.write_text(OLD_COMPILER)
    compiler.chmod(0o755)
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "libstep.so")
    library._load.cache_clear()
    try:
        compile_library(library.LIBRARY, compiler=str(compiler))
        assert library.left_out() == "avx512_bf16" and "avx512_bf16" not in levels()
        assert levels()[-1] == "baseline"
        found = str(_decoding("cpu"))
    finally:
        library._load.cache_clear()
    assert found.endswith("its compiler did not know avx512_bf16")
    assert "does not know them: avx512_bf16" in capfd.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_the_native_step_is_clean_under_sanitizers(sanitizer: str, tmp_path: Path) -> None:
    flags = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-g", "-O1")
    program = build(tmp_path, "g++", *flags)
    run = ["setarch", "-R", str(program)] if shutil.which("setarch") else [str(program)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-4000:]
    assert_alike(logits(done.stdout))


@pytest.mark.long
@pytest.mark.parametrize("processor", ["cortex-a72", "max"])
def test_arm_gives_the_numbers_of_this_machine(processor: str, tmp_path: Path) -> None:
    """cortex-a72 has no dot-product instructions (a Raspberry Pi 4), max has them."""
    if not shutil.which("qemu-aarch64"):
        pytest.skip("needs qemu-user")
    (tmp_path / "arm").mkdir()
    program = build(tmp_path / "arm", "aarch64-linux-gnu-g++", machine="aarch64")
    words = ["qemu-aarch64", "-cpu", processor, "-L", "/usr/aarch64-linux-gnu", str(program)]
    environment = os.environ | {"LD_LIBRARY_PATH": ""}
    done = subprocess.run(words, capture_output=True, text=True, timeout=1200, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    emulated = logits(done.stdout)
    assert_alike(emulated)
    assert any(key[2] == "neon_dotprod" for key in emulated) == (processor == "max")
    here = subprocess.run([build(tmp_path, "g++")], capture_output=True, text=True, check=True)
    for key, numbers in logits(here.stdout).items():
        if key[2] == "baseline":
            assert distance(emulated[key], numbers) < max(TOLERANCE[key[1]], 1e-2 * ("b" in key[0]))
