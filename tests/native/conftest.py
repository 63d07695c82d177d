"""Wherever there is a compiler, these tests have the library of the sources beside them."""

from __future__ import annotations

from contextlib import suppress

from lmapps.native.compile import CannotCompile, compile_library
from lmapps.native.library import Unavailable, levels

try:
    levels()
except Unavailable:
    with suppress(CannotCompile):
        compile_library()
