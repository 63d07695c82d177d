"""Wherever there is a compiler, these tests have the library of the sources beside them."""

from __future__ import annotations

from lmapps.native.compile import CannotCompile, compile_library, find_compiler
from lmapps.native.library import Unavailable, levels

try:
    levels()
except Unavailable:
    try:
        find_compiler()
    except CannotCompile:
        pass
    else:  # what it says about the sources is an error
        compile_library()
