"""`pip install` (also `-e`) -> the native step is compiled where a compiler is; else left out."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeStepHook(BuildHookInterface[Any]):
    """Adds `libstep.so` to the wheel, which then belongs to one platform but any Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        file = Path(self.root) / "lmapps" / "native" / "compile.py"
        spec = importlib.util.spec_from_file_location("lmapps_native_compile", file)
        assert spec and spec.loader
        compile = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(compile)  # by its path: lmapps is not installed yet
        try:
            library = compile.compile_library()
        except compile.CannotCompile as error:
            self.app.display_warning(f"lmapps is installed without its native step: {error}")
            return
        build_data["artifacts"].append(str(library.relative_to(self.root)))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"


def _platform() -> str:
    from packaging.tags import sys_tags  # a dependency of hatchling

    return next(iter(sys_tags())).platform
