"""A .html, .pdf or .docx file on standard input -> its text: a process of its own, with limits.

Started by `documents.py` as `python -P readers.py SUFFIX UNPACKED PAGES CHARACTERS MEMORY SECONDS`.
It imports nothing of lmapps, is given no path but the open file, and what it may use is bounded by
the kernel before it reads a byte: whatever a broken or hostile file makes a reader do ends here.
Exit codes: 0 with the text on standard output, `UNREADABLE` with a sentence and its values there,
as JSON.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

UNREADABLE = 3


class Unreadable(Exception):
    """What is wrong with a file, as the end of a sentence that begins with its name."""

    def __init__(self, template: str, **values: str | int) -> None:
        super().__init__(template.format(**values) if values else template)
        self.template, self.values = template, values

    def as_json(self) -> str:
        return json.dumps([self.template, self.values])


@dataclass(frozen=True)
class Bounds:
    """What a document may be at most."""

    unpacked: int
    """Bytes that a .docx holds once unpacked; a PDF's streams are bounded by pypdf."""
    pages: int
    characters: int

    @property
    def written(self) -> int:
        """The most bytes that say what a document holds, or what is wrong with it."""
        return 4 * self.characters + 4096

    def check_length(self, length: int) -> None:
        if length > self.characters:
            raise Unreadable(
                "has more than {most:,} characters: give a part of it", most=self.characters
            )


def main() -> int:
    suffix, *numbers = sys.argv[1:]
    *numbers_of_bounds, memory, seconds = map(int, numbers)
    bounds = Bounds(*numbers_of_bounds)
    limit(memory, seconds, bounds.written)
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    try:
        told, code = text_of(sys.stdin.buffer, suffix, bounds), 0
    except Unreadable as error:
        told, code = error.as_json(), UNREADABLE
    except MemoryError:
        wrong = Unreadable(
            "takes more than {most} MB of memory to read: it is refused", most=memory >> 20
        )
        told, code = wrong.as_json(), UNREADABLE
    sys.stdout.write(told)
    return code


def limit(memory: int, seconds: int, written: int) -> None:
    """Bytes of address space, seconds of processor and bytes of a file that this process may use.
    What the kernel does not know on this system is left to the clock of who started it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: written,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # macOS refuses some of them
            continue


def text_of(stream: BinaryIO, suffix: str, bounds: Bounds) -> str:
    """The text of a document. Raises `Unreadable`."""
    try:
        text = READERS[suffix](stream, bounds)
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # a reader of a broken file raises whatever it comes to
        reason = " ".join(str(error).split())[:200]
        kind = type(error).__name__
        raise Unreadable("is broken: {kind}: {reason}", kind=kind, reason=reason) from None
    bounds.check_length(len(text))
    return text


def plain(stream: BinaryIO, _: Bounds) -> str:
    """UTF-8 text with the line ends of Unix."""
    content = stream.read()
    if b"\0" in content:
        raise Unreadable("is a binary file, not text; save it as text first")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"{content[error.start]:#04x}"
        raise Unreadable(
            "is not UTF-8 text in line {line} ({found}): save it as UTF-8", line=line, found=found
        ) from None


def _html(stream: BinaryIO, bounds: Bounds) -> str:
    from markdownify import markdownify

    text: str = markdownify(
        plain(stream, bounds),
        strip=["a", "img", "em", "strong", "b", "i"],
        heading_style="ATX",
        escape_asterisks=False,
        escape_underscores=False,
    )
    return text.strip()


def _pdf(stream: BinaryIO, bounds: Bounds) -> str:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    if b"%PDF-" not in stream.read(1024):
        raise Unreadable("is not a PDF, whatever its name says")
    try:
        reader = PdfReader(stream)
        closed = reader.is_encrypted and not reader.decrypt("")
    except DependencyError:  # AES, for which pypdf needs one more package
        closed = True
    if closed:
        raise Unreadable("is encrypted: save a copy without a password")
    count = len(reader.pages)
    if count > bounds.pages:
        raise Unreadable(
            "has {count:,} pages, more than {most}: give a part", count=count, most=bounds.pages
        )
    pages: list[str] = []
    for page in reader.pages:
        pages.append(page.extract_text().strip())
        bounds.check_length(sum(map(len, pages)))
    if not any(pages):
        raise Unreadable("has pictures but no text: recognize the text of a scan first")
    return "\n\n".join(page for page in pages if page)


def _docx(stream: BinaryIO, bounds: Bounds) -> str:
    content = io.BytesIO(stream.read())
    if content.read(8) == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":  # how Office stores either
        raise Unreadable("is encrypted, or of Word before 2007: save it as plain .docx")
    if not zipfile.is_zipfile(content):
        raise Unreadable("is not a Word document, whatever its name says")
    with zipfile.ZipFile(content) as parts:  # no part unpacks to more than it says here
        unpacked = sum(part.file_size for part in parts.infolist())
    if unpacked > bounds.unpacked:
        raise Unreadable(
            "unpacks to {size:,} bytes, more than {most:,}: it is refused",
            size=unpacked, most=bounds.unpacked,
        )  # fmt: skip
    import docx

    document = docx.Document(content)
    blocks = (_block(block) for block in document.iter_inner_content())
    return "\n\n".join(block for block in blocks if block.strip())


def _block(block: Any) -> str:
    """A paragraph, or a table with a line a row."""
    if hasattr(block, "rows"):
        rows = [[cell.text for cell in row.cells] for row in block.rows]
        return "\n".join(" | ".join(cells) for cells in rows)
    return str(block.text)


READERS: dict[str, Callable[[BinaryIO, Bounds], str]] = {
    ".txt": plain, ".md": plain, ".html": _html, ".htm": _html, ".pdf": _pdf, ".docx": _docx,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
