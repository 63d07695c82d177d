"""A file that a person gives -> its text: .txt, .md, .html, .pdf and .docx, within limits.

What comes in may be broken or hostile: every limit is checked before the work that it bounds, and
whatever a reader of a format raises becomes one sentence.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmapps.errors import DataError, LmappsError

MAX_BYTES = 10_000_000
"""The largest file."""
MAX_UNPACKED = 100_000_000
"""The most bytes that a .docx may hold once unpacked; a PDF's streams are bounded by pypdf."""
MAX_PAGES = 500
MAX_CHARACTERS = 5_000_000
"""The longest text, about 1,500 pages."""

Reader = Callable[[Path], str]


def read_document(file: str | Path) -> str:
    """The text of a file, by its suffix.

    Raises `DataError` for a suffix that is not known, a file that is missing, empty, too large,
    encrypted, broken or not UTF-8, and where the package that reads its format is not installed.
    """
    file = Path(file)
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise DataError(f"{file} is not of a kind that can be read: {', '.join(READERS)}")
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{file} has {size:,} bytes, more than {MAX_BYTES:,}: give a part")
        text = reader(file)
    except LmappsError:
        raise
    except ModuleNotFoundError as error:
        raise DataError(
            f"reading {file.suffix} files needs the package {error.name}: install it with "
            "pip install 'lmapps[documents]'"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read the file {file}: {error.strerror or error}") from None
    except Exception as error:  # a reader of a broken file raises whatever it comes to
        reason = " ".join(str(error).split())
        raise DataError(f"{file} is broken: {type(error).__name__}: {reason}") from None
    if not text.strip():
        raise DataError(f"{file} has no text in it")
    _check_length(len(text), file)
    return text


def _plain(file: Path) -> str:
    content = file.read_bytes()
    if b"\0" in content:
        raise DataError(f"{file} is a binary file, not text; save it as text first")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: not UTF-8 text ({content[error.start]:#04x}): save it as UTF-8"
        ) from None


def _html(file: Path) -> str:
    from markdownify import markdownify

    text: str = markdownify(
        _plain(file),
        strip=["a", "img", "em", "strong", "b", "i"],
        heading_style="ATX",
        escape_asterisks=False,
        escape_underscores=False,
    )
    return text.strip()


def _pdf(file: Path) -> str:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    with file.open("rb") as stream:
        if b"%PDF-" not in stream.read(1024):
            raise DataError(f"{file} is not a PDF, whatever its name says")
        try:
            reader = PdfReader(stream)
            closed = reader.is_encrypted and not reader.decrypt("")
        except DependencyError:  # AES, for which pypdf needs one more package
            closed = True
        if closed:
            raise DataError(f"{file} is encrypted: save a copy without a password")
        count = len(reader.pages)
        if count > MAX_PAGES:
            raise DataError(f"{file} has {count:,} pages, more than {MAX_PAGES}: give a part")
        pages: list[str] = []
        for page in reader.pages:
            pages.append(page.extract_text().strip())
            _check_length(sum(map(len, pages)), file)
    if not any(pages):
        raise DataError(f"{file} has pictures but no text: recognize the text of a scan first")
    return "\n\n".join(page for page in pages if page)


def _docx(file: Path) -> str:
    with file.open("rb") as stream:
        if stream.read(8) == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":  # how Office stores either
            raise DataError(f"{file} is encrypted, or of Word before 2007: save it as plain .docx")
    if not zipfile.is_zipfile(file):
        raise DataError(f"{file} is not a Word document, whatever its name says")
    with zipfile.ZipFile(file) as parts:  # no part unpacks to more than it says here
        unpacked = sum(part.file_size for part in parts.infolist())
    if unpacked > MAX_UNPACKED:
        raise DataError(
            f"{file} unpacks to {unpacked:,} bytes, more than {MAX_UNPACKED:,}: it is refused"
        )
    import docx

    document = docx.Document(str(file))
    blocks = (_block(block) for block in document.iter_inner_content())
    return "\n\n".join(block for block in blocks if block.strip())


def _block(block: Any) -> str:
    """A paragraph, or a table with a line a row."""
    if hasattr(block, "rows"):
        rows = [[cell.text for cell in row.cells] for row in block.rows]
        return "\n".join(" | ".join(cells) for cells in rows)
    return str(block.text)


def _check_length(length: int, file: Path) -> None:
    if length > MAX_CHARACTERS:
        raise DataError(f"{file} has more than {MAX_CHARACTERS:,} characters: give a part of it")


READERS: dict[str, Reader] = {
    ".txt": _plain, ".md": _plain, ".html": _html, ".htm": _html, ".pdf": _pdf, ".docx": _docx,
}  # fmt: skip
