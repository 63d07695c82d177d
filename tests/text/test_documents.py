"""Files that a person drops: their text, and one sentence for whatever is wrong with one."""

from __future__ import annotations

import io
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmapps.errors import DataError
from lmapps.text import documents
from lmapps.text.documents import read_document
from lmapps.text.readers import READERS, Bounds, Unreadable, text_of

PAGE = """<html><head><style>p { color: red }</style><script>var x = 1;</script></head><body>
<h2>The cat</h2><p>It <b>sat</b> on the <a href="http://x.y">mat</a>.</p>
<ul><li>one</li><li>two_three</li></ul></body></html>"""


def pdf(pages: list[str], password: str = "") -> bytes:
    """A PDF of one line a page."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    entries = DictionaryObject({NameObject(k): NameObject(v) for k, v in font.items()})
    for text in pages:
        page = writer.add_blank_page(300, 300)
        fonts = DictionaryObject({NameObject("/F1"): entries})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = stream
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


def docx(paragraphs: list[str]) -> bytes:
    import docx as word

    document = word.Document()
    for text in paragraphs:
        document.add_paragraph(text)
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    written = io.BytesIO()
    document.save(written)
    return written.getvalue()


def with_part(archive: bytes, name: str, content: bytes) -> bytes:
    """A zip file with one part added or replaced."""
    written = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as old,
        zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.namelist():
            if part != name:
                new.writestr(part, old.read(part))
        new.writestr(name, content)
    return written.getvalue()


@pytest.mark.parametrize(
    ("name", "make", "text"),
    [
        ("a.txt", lambda: "\ufeffOne.\r\n二。".encode(), "One.\n二。"),
        ("a.MD", lambda: b"# One\n\n*two*", "# One\n\n*two*"),
        ("a.html", PAGE.encode, "## The cat\n\nIt sat on the mat.\n\n* one\n* two_three"),
        ("a.pdf", lambda: pdf(["The cat", "sat."]), "The cat\n\nsat."),
        ("a.docx", lambda: docx(["The cat", "", "sat."]), "The cat\n\nsat.\n\nleft | right"),
    ],
)
def test_the_text_of_a_file(
    name: str, make: Callable[[], bytes], text: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(make())
    assert read_document(tmp_path / name) == text


BOMB = b"""<?xml version="1.0"?><!DOCTYPE w [<!ENTITY a "%s"><!ENTITY b "%s"><!ENTITY c "%s">]>
<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p>
<w:r><w:t>&c;</w:t></w:r></w:p></w:body></w:document>""" % (b"x" * 99, b"&a;" * 99, b"&b;" * 99)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("a.doc", lambda: b"x", r"a.doc is not of a kind that can be read: .txt, .md, .html"),
        ("a.txt", lambda: b"", "a.txt has no text"),
        ("a.txt", lambda: b"MZ\0", "is a binary file"),
        ("a.md", lambda: b"one\nna\xefve", r"a.md is not UTF-8 text in line 2 \(0xef\)"),
        ("a.html", lambda: b"<p>\xe9</p>", "not UTF-8 text in line 1"),
        ("a.html", lambda: b"<div>" * 50_000 + b"x", "a.html is broken: RecursionError"),
        ("a.txt", lambda: b"x" * 10_000_001, "has 10,000,001 bytes, more than 10,000,000"),
        ("a.txt", lambda: b"x" * 5_000_001, "more than 5,000,000 characters"),
        ("a.pdf", lambda: b"hello", "is not a PDF"),
        ("a.pdf", lambda: pdf(["x"])[:200], "a.pdf is broken: "),
        ("a.pdf", lambda: pdf([""]), "a.pdf has pictures but no text"),
        ("a.pdf", lambda: pdf(["x"] * 501), "has 501 pages, more than 500"),
        ("a.pdf", lambda: pdf(["x"], "secret"), "a.pdf is encrypted"),
        ("a.docx", lambda: b"hello", "is not a Word document"),
        ("a.docx", lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 and more", "a.docx is encrypted"),
        (
            "a.docx",
            lambda: with_part(docx([]), "more", b"0" * 100_000_001),
            "unpacks to 100,[0-9]{3},[0-9]{3} bytes",
        ),
        ("a.docx", lambda: with_part(docx([]), "word/document.xml", b"<"), "a.docx is broken"),
        ("a.docx", lambda: with_part(docx([]), "word/document.xml", BOMB), "no text|broken"),
        ("none.pdf", None, "cannot read the file .*No such file"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(
    name: str, make: Callable[[], bytes] | None, words: str, tmp_path: Path
) -> None:
    if make:
        (tmp_path / name).write_bytes(make())
    with pytest.raises(DataError, match=words) as raised:
        read_document(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_pdf_with_an_owner_password_alone_is_read(tmp_path: Path) -> None:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf(["The cat."]))))
    writer.encrypt(user_password="", owner_password="secret", algorithm="RC4-128")
    with (tmp_path / "a.pdf").open("wb") as stream:
        writer.write(stream)
    assert read_document(tmp_path / "a.pdf") == "The cat."


def test_a_page_of_endless_text_stops_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_CHARACTERS", 10)
    (tmp_path / "a.pdf").write_bytes(pdf(["123456", "789012", "never read"]))
    with pytest.raises(DataError, match="more than 10 characters"):
        read_document(tmp_path / "a.pdf")


@pytest.mark.parametrize(
    ("suffix", "package"), [(".pdf", "pypdf"), (".docx", "docx"), (".html", "markdownify")]
)
def test_a_missing_package_is_named_with_the_extra(
    suffix: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {".pdf": lambda: pdf(["x"]), ".docx": lambda: docx(["x"]), ".html": PAGE.encode}
    (tmp_path / f"a{suffix}").write_bytes(made[suffix]())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"{package}: install it with pip .*lmapps\[documents\]"):
        read_document(tmp_path / f"a{suffix}")


def endless_object(pdf: bytes) -> bytes:
    """A PDF whose page tree has itself as its child."""
    return pdf.replace(b"/Type /Page\n", b"/Type /Pages\n/Kids [ 4 0 R 4 0 R ]\n/Count 9\n")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("slow.html", lambda: b"<p>a<ul><li>b</ul></p>" * 400_000),
        ("attributes.html", lambda: b"<a " + b"x='" * 3_000_000),
        ("nested.docx", lambda: with_part(docx([]), "word/document.xml", b"<a>" * 3_000_000)),
        ("tree.pdf", lambda: endless_object(pdf(["x", "y"]))),
    ],
)
def test_a_file_that_takes_too_long_is_given_up_in_time(
    name: str, make: Callable[[], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "SECONDS", 2)
    (tmp_path / name).write_bytes(make())
    began = time.monotonic()
    with pytest.raises(DataError, match=r"refused|broken|no text"):
        read_document(tmp_path / name)
    assert time.monotonic() - began < 15


def test_a_file_that_takes_too_much_memory_is_refused_and_this_process_has_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MEMORY", 150 << 20)
    head, end = BOMB.split(b"<w:p>")[0].partition(b"?>")[2], b"</w:body></w:document>"
    head = head[head.index(b"<w:document") :]
    many = head + b"<w:p><w:r><w:t>x</w:t></w:r></w:p>" * 500_000 + end
    (tmp_path / "a.docx").write_bytes(with_part(docx([]), "word/document.xml", many))
    with pytest.raises(DataError, match=r"too much|takes more than|broken"):
        read_document(tmp_path / "a.docx")


def test_the_process_that_reads_has_no_secret_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMAPPS_DATABASE", "postgresql://me:secret@db/x")
    reader = tmp_path / "tell.py"
    reader.write_text("import os\nprint(dict(os.environ))")
    monkeypatch.setattr(documents.readers, "__file__", str(reader))
    (tmp_path / "a.pdf").write_bytes(PDF)
    told = read_document(tmp_path / "a.pdf")
    assert "PATH" in told and "secret" not in told and "LMAPPS" not in told


def test_a_link_is_read_as_what_it_points_to_under_its_own_kind(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(b"\0\1")
    (tmp_path / "a.txt").symlink_to(tmp_path / "real.bin")
    with pytest.raises(DataError, match="binary file"):
        read_document(tmp_path / "a.txt")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(READERS)), st.binary(max_size=300), st.integers(0, 5000))
def test_a_damaged_file_is_text_or_one_error(suffix: str, noise: bytes, place: int) -> None:
    whole = {".pdf": PDF, ".docx": DOCX}.get(suffix, PAGE.encode())
    place %= len(whole)
    damaged = whole[:place] + noise + whole[place + len(noise) :]
    with suppress(Unreadable):  # in this process, which is quicker
        text_of(io.BytesIO(damaged), suffix, Bounds(10**7, 50, 10**6))


PDF, DOCX = pdf(["The cat sat."]), docx(["The cat sat."])
