"""Wherever there is a compiler, these tests have the library of the sources beside them."""

from __future__ import annotations

from contextlib import suppress

from lmapps.native.compile import CannotCompile, compile_library, find_compiler
from lmapps.native.library import Unavailable, levels

there_is_one = False
try:
    levels()
except Unavailable:
    with suppress(CannotCompile):
        find_compiler()
        there_is_one = True
    if there_is_one:  # what it says about the sources is an error
        compile_library()
