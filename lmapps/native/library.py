"""`libstep.so` -> its functions, or the sentence that says why there are none."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

from lmapps.native.compile import LIBRARY, fingerprint

SWITCH = "LMAPPS_NATIVE"
"""Set to 0, this environment variable turns the native step, and native sampling, off."""

BUILD = "with a C++ compiler on this machine, run `python lmapps/native/compile.py`"


class Unavailable(Exception):
    """Why the native step is not used."""


def library() -> ctypes.CDLL:
    """The loaded library. Raises `Unavailable`."""
    if os.environ.get(SWITCH) == "0":
        raise Unavailable(f"{SWITCH}=0 turns the native step off")
    if not LIBRARY.is_file():
        raise Unavailable(f"the native step is not built: {BUILD}")
    try:
        return _load()
    except (OSError, AttributeError) as error:
        raise Unavailable(f"{LIBRARY.name} cannot be loaded ({error}): {BUILD}") from None


@cache
def _load() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(LIBRARY))
    pointer, number, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
    if loaded.lmapps_sources() != fingerprint():
        raise OSError("it was built from other sources")
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "lmapps_level": (ctypes.c_char_p, [number]),
        "lmapps_left_out": (ctypes.c_char_p, []),
        "lmapps_threads": (pointer, [number]),
        "lmapps_threads_free": (None, [pointer]),
        "lmapps_new": (pointer, [pointer, ctypes.POINTER(number), real, pointer, number]),
        "lmapps_free": (None, [pointer]),
        "lmapps_matrix": (number, [pointer, number, number, pointer, number, number, pointer]),
        "lmapps_vector": (number, [pointer, number, number, pointer, number]),
        "lmapps_step": (
            None,
            [pointer, pointer, number, number, pointer, number, number, pointer, pointer],
        ),
        "lmapps_room": (number, [number]),
        "lmapps_sample": (
            None,
            [pointer, number, pointer, number, number, pointer, number, *[pointer] * 4],
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def levels() -> list[str]:
    """Instruction sets that this machine can run, best first. Raises `Unavailable`."""
    names: list[str] = []
    while name := library().lmapps_level(len(names)):
        names.append(name.decode())
    return names


def left_out() -> str:
    """Instruction sets that the library lacks since its compiler did not know them, with commas.
    Raises `Unavailable`."""
    return str(library().lmapps_left_out().decode()).replace(",", ", ")


def level_name(level: int) -> str:
    """That of `levels()`. Raises `IndexError` for another number."""
    known = levels()
    if not 0 <= level < len(known):
        raise IndexError(f"level {level} is none of 0 to {len(known) - 1} ({', '.join(known)})")
    return known[level]
