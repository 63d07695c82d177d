"""The C++ sources of this folder -> `libstep.so` beside them, with the compiler of this machine.

`pip install` does this through hook.py; in a clone, `python lmapps/native/compile.py` does. It
imports nothing but the standard library, since it also runs where nothing is installed yet.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "libstep.so"

_AVX512 = "-mavx2 -mfma -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni"
LEVELS: dict[str, dict[str, str]] = {
    "x86_64": {
        "avx512_bf16": f"{_AVX512} -mavx512bf16",
        "avx512": _AVX512,
        "avx2": "-mavx2 -mfma",
    },
    "aarch64": {"neon_dotprod": "-march=armv8.2-a+dotprod"},
}
"""For each kind of processor the instruction sets and their flags; `baseline` goes with all."""
FLAGS = "-std=c++17 -O3 -fPIC -fno-math-errno -ffp-contract=fast -Wall -Wextra -Wno-psabi"


class CannotCompile(Exception):
    """Why there is no library: no compiler, or what it said."""


def compile_library(
    target: Path = LIBRARY, *, compiler: str = "", machine: str = "", extra: Sequence[str] = ()
) -> Path:
    """Compile and link, without the instruction sets whose flags the compiler does not know.
    `extra` flags go to every call. Raises `CannotCompile`."""
    command = [*shlex.split(compiler or find_compiler()), *extra]
    processor = {"AMD64": "x86_64", "arm64": "aarch64"}.get(
        machine or platform.machine(), machine or platform.machine()
    )
    levels = LEVELS.get(processor, {})
    left_out = [level for level, flags in levels.items() if not _knows(command, flags)]
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        stamp = f"-DSOURCES={fingerprint()} -DLEFT_OUT={','.join(left_out)}"
        stamp += "".join(f" -DWITHOUT_{level}" for level in left_out)
        objects = [
            _object(command, "step.cpp", "step", stamp, Path(scratch)),
            _object(command, "sample.cpp", "sample", "", Path(scratch)),
        ]
        for level, flags in {"baseline": "", **levels}.items():
            if level not in left_out:
                flags += f" -DLEVEL={level}"
                objects.append(_object(command, "kernels.cpp", level, flags, Path(scratch)))
        linked = Path(scratch) / target.name
        _run([*command, "-shared", "-pthread", "-o", str(linked), *objects])
        os.replace(linked, target)  # a process that uses the old one keeps it
    if left_out:
        print(f"left out, {command[0]} does not know them: {', '.join(left_out)}", file=sys.stderr)
    return target


def fingerprint() -> int:
    """A number that changes with the sources: a library of another version is not called."""
    sources = sorted((*FOLDER.glob("*.h"), *FOLDER.glob("*.cpp")))
    return zlib.crc32(b"".join(file.read_bytes() for file in sources)) >> 1


def find_compiler() -> str:
    """`$CXX`, else the first of c++, g++, clang++ that is there. Raises `CannotCompile`."""
    if os.environ.get("CXX"):
        return os.environ["CXX"]
    found = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if found is None:
        raise CannotCompile("no C++ compiler (c++, g++ or clang++) on this machine")
    return found


def _knows(command: list[str], flags: str) -> bool:
    """Whether the compiler takes these flags: GCC before 10 has no -mavx512bf16."""
    try:
        _run([*command, *flags.split(), "-fsyntax-only", "-x", "c++", os.devnull])
    except CannotCompile:
        return False
    return True


def _object(command: list[str], source: str, name: str, flags: str, scratch: Path) -> str:
    target = str(scratch / f"{name}.o")
    _run([*command, *FLAGS.split(), *flags.split(), "-c", str(FOLDER / source), "-o", target])
    return target


def _run(words: list[str]) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(f"{words[0]} could not be run: {error}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise CannotCompile(f"{words[0]} failed: {lines[0].strip()}")


if __name__ == "__main__":
    try:
        print(compile_library())
    except CannotCompile as error:
        sys.exit(f"no native step: {error}")
