"""Files and folders -> documents (plain text) or records (JSON objects), read as a stream."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lmapps.errors import DataError

TEXT_SUFFIXES = (".txt", ".md")
RECORD_SUFFIXES = (".jsonl",)
COMPRESSED_SUFFIXES = (".gz", ".xz", ".bz2", ".zst")
READABLE = ", ".join(TEXT_SUFFIXES + RECORD_SUFFIXES) + f" (also {', '.join(COMPRESSED_SUFFIXES)})"


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Document:
    """One text and where it came from: `file` or `file:line`."""

    text: str
    source: str


def data_files(paths: Sequence[str | Path]) -> list[Path]:
    """Files as given, and every readable file below the folders given, in a fixed order."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file() and _kind(file))
            if not found:
                raise DataError(f"no text in the folder {path}: put files there of {READABLE}")
            files += found
        elif not path.exists():
            raise DataError(f"there is no file or folder {path}; check the path")
        elif not _kind(path):
            raise DataError(
                "{file} is not of a kind that can be read: {kinds}", file=path, kinds=READABLE
            )
        else:
            files.append(path)
    if not files:
        raise DataError("no data given: name files or folders of text with --data")
    return files


def read_documents(paths: Sequence[str | Path]) -> Iterator[Document]:
    """Every text in files and folders: a .txt or .md file is one, a .jsonl file has one a line.

    Raises `DataError` where a file is missing, empty, binary, not UTF-8, or a record has no text.
    """
    for file in data_files(paths):
        if _kind(file) in TEXT_SUFFIXES:
            with _open(file) as stream:
                text = "".join(_lines(stream, file))
            if not text.strip():
                raise DataError("{file} is empty; leave it out or put text into it", file=file)
            yield Document(text, str(file))
            continue
        for number, record in enumerate(read_records(file), start=1):
            body = record.get("text")
            if not isinstance(body, str):
                raise DataError(
                    f"{file}, record {number}: no field 'text' (fields: {', '.join(record)}); "
                    'each line must be an object with the document under "text"'
                )
            if body.strip():
                yield Document(without_lone_surrogates(body), f"{file}:{number}")


def read_records(file: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file, in order. Raises `DataError` with the line number."""
    file = Path(file)
    if not file.is_file():
        raise DataError(f"there is no file {file}; check the path")
    count = 0
    with _open(file) as stream:
        for number, line in enumerate(_lines(stream, file), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{file}, line {number}: not JSON ({error.msg})") from None
            except ValueError:
                most = sys.get_int_max_str_digits()
                raise DataError(
                    f"{file}, line {number}: a number of more than {most:,} digits; quote it"
                ) from None
            except RecursionError:
                raise DataError(f"{file}, line {number}: nested too deeply; leave it out") from None
            if not isinstance(record, dict):
                raise DataError(f"{file}, line {number}: must be a JSON object, got {line[:40]!r}")
            count += 1
            yield record
    if not count:
        raise DataError(f"{file} has no records; each line must be a JSON object")


def without_lone_surrogates(text: str) -> str:
    """Half a pair of UTF-16, which JSON can say and UTF-8 cannot, becomes U+FFFD."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def hash_of_files(files: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of files, in order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        digest.update(bytes.fromhex(sha256_of(file)))
    return digest.hexdigest()


def sha256_of(file: Path) -> str:
    """Of what is in it, as `sha256sum` gives it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _kind(file: Path) -> str:
    """The suffix that says what is inside (`.txt`, `.md`, `.jsonl`), or ''."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    return last if last in TEXT_SUFFIXES + RECORD_SUFFIXES else ""


def _open(file: Path) -> Any:
    """The bytes of a file, decompressed by its last suffix."""
    match file.suffix.lower():
        case ".gz":
            return gzip.open(file, "rb")
        case ".xz":
            return lzma.open(file, "rb")
        case ".bz2":
            return bz2.open(file, "rb")
        case ".zst":
            import zstandard

            raw = zstandard.ZstdDecompressor().stream_reader(file.open("rb"), closefd=True)
            return io.BufferedReader(raw)
        case _:
            return file.open("rb")


def _lines(stream: IO[bytes], file: Path) -> Iterator[str]:
    """Decoded lines (split at newline bytes only, since texts hold U+2028 and the like)."""
    try:
        for number, line in enumerate(stream, start=1):
            if b"\0" in line:
                raise DataError("{file} is a binary file, not text; leave it out", file=file)
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    "{file}, line {line}: not UTF-8 ({found:#04x} at byte {byte} of the line); "
                    "convert it with `iconv -t UTF-8`",
                    file=file, line=number, found=line[error.start], byte=error.start + 1,
                ) from None  # fmt: skip
            yield text.replace("\r\n", "\n")
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError("{file} cannot be read: {error}", file=file, error=error) from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise DataError("{file} cannot be read: {error}", file=file, error=error) from None
        raise
