"""The software -> versions, what serving and training will use, and what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from lmapps import __version__
from lmapps.doctor.finding import Finding

SHOWN = ("torch", "transformers", "accelerate", "gradio", "tokenizers")
DOCUMENTS = ("pypdf", "docx", "markdownify")


def look_at_software() -> Iterator[Finding]:
    """Versions, optional packages, devices, the native step, the sandbox."""
    yield Finding("lmapps", __version__)
    yield from _packages()
    missing = [name for name in DOCUMENTS if find_spec(name) is None]
    if missing:
        told = f"files of .pdf, .docx and .html cannot be read: {', '.join(missing)} missing"
        yield Finding("documents", told, "pip install 'lmapps[documents]'")
    if all(_installed(name) for name in SHOWN):
        yield from _devices()
    yield from _sandbox()


def _packages() -> Iterator[Finding]:
    """What lmapps needs: there, and of a version that it was made for."""
    from packaging.requirements import Requirement

    for line in requires("lmapps") or []:
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        found = _installed(needed.name)
        if found is None:
            yield Finding(needed.name, "not installed", "run `pip install -e .` again", fatal=True)
        elif not needed.specifier.contains(found, prereleases=True):
            told = f"{found}, made for {needed.specifier}"
            way_out = f"pip install '{needed.name}{needed.specifier}'"
            yield Finding(needed.name, told, way_out, fatal=True)
        elif needed.name in SHOWN:
            yield Finding(needed.name, found)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    """What training and serving will run on, in which precision."""
    import torch

    from lmapps.engine.devices import AUTO, precision, serving_devices
    from lmapps.training.start import mixed_precision

    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        memory = properties.total_memory / 2**30
        yield Finding("GPU", f"{properties.name}, {memory:.0f} GiB")
    if not torch.cuda.is_available() and has_nvidia():
        told = f"there is an NVIDIA GPU, but torch {torch.__version__} cannot use it"
        build = (
            "a build for the CPU is installed"
            if not torch.version.cuda
            else "the driver is too old"
        )
        yield Finding("GPU", told, f"{build}: see pytorch.org for the one that fits")
    devices = serving_devices()
    device = ", ".join(devices)
    threads = f" with {torch.get_num_threads()} threads" if device == "cpu" else ""
    yield Finding("serving", f"on {device}{threads}, {precision(AUTO, devices)}")
    yield _decoding(device)
    mixed = {"no": "fp32"}.get(mixed_precision("auto"), mixed_precision("auto"))
    yield Finding("training", f"on {device}{threads}, {mixed}")


def has_nvidia() -> bool:
    """Whether the kernel or the driver's program says so."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _decoding(device: str) -> Finding:
    """What computes a step on this machine."""
    from lmapps.native.library import SWITCH, Unavailable, left_out, levels

    if device != "cpu":
        return Finding("decoding", f"with torch on {device}")
    try:
        missing = f"; its compiler did not know {left_out()}" if left_out() else ""
        return Finding("decoding", f"native, {levels()[0]} ({SWITCH}=0 turns it off){missing}")
    except Unavailable as reason:
        told, _, way_out = str(reason).partition(": ")
        return Finding("decoding", f"with torch, several times slower: {told}", way_out)


def _sandbox() -> Iterator[Finding]:
    from lmapps.evaluation.sandbox import why_not

    reason = why_not()
    if reason:
        told = f"generated code is not run here: {reason}"
        yield Finding("sandbox", told, "it is for `lmapps evaluate --problems` alone")
