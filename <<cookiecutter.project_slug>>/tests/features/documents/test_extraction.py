"""What a file is and what it says, whatever its name claims and however it was made."""

import io
import random
import time
import zipfile
import zlib
from collections.abc import Callable

import pytest

from app.features.documents.extraction import (
    Limits,
    MediaType,
    Section,
    UnreadableError,
    UnsupportedError,
    detect,
    extract,
)
from app.features.documents.extraction.html import MAX_TAGS
from app.features.documents.extraction.text import clean, clean_line, shorten
from tests.features.documents.samples import deflated_zeros, paragraph, pdf, raw_docx, raw_pdf

LIMITS = Limits(pages=50, characters=200_000)


def read(data: bytes, limits: Limits = LIMITS) -> list[Section]:
    """Detect and extract, as an upload and its task do."""
    return extract(data, detect(data), limits)


def archive() -> bytes:
    """A ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("payload.txt", "run me")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"Just a line of text.", MediaType.TEXT),
        ("Gr\u00fc\u00dfe aus M\u00fcnchen \U0001f44b".encode(), MediaType.TEXT),
        ("\ubb38\uc11c \uac80\uc0c9".encode(), MediaType.TEXT),
        ("Text in UTF-16".encode("utf-16"), MediaType.TEXT),
        ("Text in UTF-32".encode("utf-32"), MediaType.TEXT),
        (b"\xef\xbb\xbfText with a mark", MediaType.TEXT),
        (b"a,b\n1,2\n", MediaType.TEXT),
        (b'{"json": true}', MediaType.TEXT),
        (b"#!/bin/sh\n# a comment\n# another\necho hello\n", MediaType.TEXT),
        (b"port = 1\n# a comment\nname = 2\n", MediaType.TEXT),
        (b"# Title\n\nText.", MediaType.MARKDOWN),
        (b"Title\n=====\n\n* one\n* two\n", MediaType.MARKDOWN),
        (b"See [the page](https://example.com) and\n\n```\ncode\n```\n", MediaType.MARKDOWN),
        (b'<div align="center"><img src="x.png"></div>\n\n# Project\n\n- one\n', MediaType.MARKDOWN),
        (b"<!DOCTYPE html><title>x</title><p>Hello", MediaType.HTML),
        (b"  \n<!-- made by hand -->\n<HTML lang=en><body>Hello", MediaType.HTML),
        (b'<?xml version="1.0"?>\n<html xmlns="http://www.w3.org/1999/xhtml"><body/></html>', MediaType.HTML),
        (b"<h1>Fragment</h1><p>Hello</p>", MediaType.HTML),
        (b"%PDF-1.4 whatever follows", MediaType.PDF),
        pytest.param(pdf(["Hello"]), MediaType.PDF, id="real-pdf"),
        pytest.param(raw_docx(paragraph("Hello")), MediaType.DOCX, id="docx"),
    ],
)
def test_the_kind_is_found_from_the_content(data: bytes, expected: MediaType) -> None:
    """Each kind that is taken is recognised by its bytes alone."""
    assert detect(data) is expected


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(64), id="png"),
        pytest.param(b"\xff\xd8\xff\xe0" + bytes(64), id="jpeg"),
        pytest.param(b"MZ" + bytes(64), id="windows-program"),
        pytest.param(b"\x7fELF\x02\x01\x01" + bytes(64), id="linux-program"),
        pytest.param(archive(), id="zip"),
        pytest.param(raw_docx("", kind="application/vnd.ms-word.document.macroEnabled.main+xml"), id="docm"),
        pytest.param(raw_docx("", more={"word/vbaProject.bin": b"x"}), id="docx-with-macros"),
        pytest.param(raw_docx("", kind="application/vnd.openxmlformats-officedocument.other+xml"), id="other-office"),
        pytest.param(raw_docx("", more={"../../etc/cron.d/x": b"x"}), id="docx-climbing-out"),
        pytest.param(raw_docx("", more={"/etc/passwd": b"x"}), id="docx-from-the-root"),
        pytest.param(raw_docx("")[:-40], id="docx-cut-off"),
        pytest.param(b"PK\x03\x04" + bytes(100), id="zip-by-name-only"),
        pytest.param(raw_docx("", more={f"{n:0200}": b"" for n in range(5000)}), id="docx-with-a-giant-listing"),
        pytest.param(b"text with a \x00 in it", id="nul"),
        pytest.param("caf\u00e9".encode("latin-1"), id="not-utf-8"),
        pytest.param(b"\xff\xfe\x00", id="half-a-character"),
        pytest.param(random.Random(1).randbytes(4096), id="noise"),
        pytest.param(rb"{\rtf1\ansi Hello}", id="rtf"),
        pytest.param(b"%!PS-Adobe-3.0\n", id="postscript"),
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>', id="svg"),
        pytest.param(b'<?xml version="1.0"?><feed/>', id="xml"),
        pytest.param(b"<?php system($_GET['x']);", id="php"),
    ],
)
def test_other_kinds_are_refused(data: bytes) -> None:
    """Binaries and formats that are not understood are refused before anything is stored."""
    with pytest.raises(UnsupportedError):
        detect(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pdf(["Hello"]) + archive(), id="zip-after-pdf"),
        pytest.param(archive() + pdf(["Hello"]), id="pdf-after-zip"),
        pytest.param(raw_docx(paragraph("x")) + b"MZ" + bytes(64), id="program-after-docx"),
        pytest.param(b"MZ" + bytes(64) + raw_docx(paragraph("x")), id="docx-after-program"),
        pytest.param(pdf(["Hello"]) + raw_docx(paragraph("x")), id="docx-after-pdf"),
        pytest.param(b"PK\x03\x04%PDF-1.7\n" + raw_docx(paragraph("x")), id="pdf-within-docx"),
        pytest.param(pdf(["Hello"]) + b"MZ" + bytes(range(256)) * 8, id="program-after-pdf"),
        pytest.param(b"GIF89a" + pdf(["Hello"]), id="pdf-after-gif"),
        pytest.param(b"<html><script>alert(1)</script>\n%PDF-1.7\n1 0 obj\nstartxref\n0\n%%EOF", id="html-before-pdf"),
    ],
)
def test_polyglots_are_refused(data: bytes) -> None:
    """A file that is two things at once could be checked as one and used as the other."""
    with pytest.raises(UnsupportedError):
        detect(data)


def test_pdf_keeps_pages_and_bookmarks() -> None:
    """Each page is a section with its number, under the bookmark that it belongs to."""
    sections = read(pdf(["First page.", "Second page.", "Third page."], bookmarks=["Intro", None, "Details"]))
    assert sections == [
        Section("First page.", "Intro", 1),
        Section("Second page.", "Intro", 2),
        Section("Third page.", "Details", 3),
    ]


def test_an_empty_page_keeps_the_numbers_of_the_others() -> None:
    """Numbers are those a reader sees, not those of the pages with text."""
    assert [section.page for section in read(pdf(["One", "", "Three"]))] == [1, 3]


def test_a_pdf_locked_only_against_changes_is_read() -> None:
    """An owner's password forbids editing, not reading."""
    assert read(pdf(["Readable by anyone."], owner_password="x"))[0].text == "Readable by anyone."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(pdf(["Secret"], password="open sesame"), "password", id="encrypted"),
        pytest.param(pdf(["Cut"])[:300], "damaged", id="truncated"),
        pytest.param(b"%PDF-1.7\n", "damaged", id="header-only"),
        pytest.param(b"%PDF-1.7\n" + b"<<" * 50_000, "damaged", id="nested"),
        pytest.param(pdf([""]), "no text", id="empty-page"),
        pytest.param(pdf(["x"] * 51), "51 pages", id="too-many-pages"),
        pytest.param(raw_pdf(zlib.compress(b"BT ET"), kids=5_000), "5,000 pages", id="one-page-many-times"),
    ],
)
def test_a_pdf_that_cannot_be_read_says_why(data: bytes, message: str) -> None:
    """Faults that no repetition mends end in a message for the owner of the file."""
    with pytest.raises(UnreadableError, match=message):
        read(data)


def test_a_pdf_bomb_is_given_up_quickly() -> None:
    """A stream that unpacks to 300 MB is neither unpacked nor waited for."""
    bomb = raw_pdf(deflated_zeros(300))
    assert len(bomb) < 400_000
    started = time.monotonic()
    with pytest.raises(UnreadableError):
        read(bomb)
    assert time.monotonic() - started < 10


def test_a_pdf_bomb_packed_twice_is_given_up_quickly() -> None:
    """Packing the packed stream again does not get it past the limit."""
    bomb = raw_pdf(zlib.compress(deflated_zeros(300), 9), filters="[/FlateDecode/FlateDecode]")
    started = time.monotonic()
    with pytest.raises(UnreadableError):
        read(bomb)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_pdf_never_gives_anything_but_its_own_error(seed: int) -> None:
    """Random damage is read as far as possible or reported, and no other exception gets out."""
    dice = random.Random(seed)
    data = bytearray(pdf(["Some text to find."] * 3, bookmarks=["One", "Two", "Three"]))
    for _ in range(40):
        data[dice.randrange(8, len(data))] = dice.randrange(256)
    try:
        sections = extract(bytes(data), MediaType.PDF, LIMITS)
    except UnreadableError:
        return
    assert all(section.text for section in sections)


def test_markdown_keeps_the_path_of_headings() -> None:
    """A section knows all headings above it; a heading of the same or a higher level ends it."""
    text = b"Before.\n\n# Guide\nIntro.\n## Install\n### Linux ###\nRun it.\n## Use **now**\nGo.\n# [Other](http://x)\nEnd."
    assert read(text) == [
        Section("Before.", None),
        Section("Intro.", "Guide"),
        Section("Guide > Install", "Guide > Install"),
        Section("Run it.", "Guide > Install > Linux"),
        Section("Go.", "Guide > Use now"),
        Section("End.", "Other"),
    ]


def test_markdown_headings_can_be_underlined() -> None:
    """Both of Markdown's forms of a heading are known; dashes below a list or a paragraph are a rule."""
    text = b"Title\n=====\n\nText.\n\nPart\n----\n\n- item\n----\nTwo\nlines\n---\nrest"
    assert [(s.heading, s.text) for s in read(text)] == [
        ("Title", "Text."),
        ("Title > Part", "- item\n----\nTwo\nlines\n---\nrest"),
    ]


def test_code_in_markdown_has_no_headings() -> None:
    """A comment in a code block is code, until the block's own fence ends it."""
    text = b"# Real\n````sh\n# comment\n```\n# comment too\n````\n# Next\nText"
    assert [section.heading for section in read(text)] == ["Real", "Next"]


def test_html_keeps_headings_and_drops_what_is_not_read() -> None:
    """Scripts, styles and comments go; blocks become paragraphs; entities become characters."""
    text = b"""<!doctype html><html><head><title>T</title><style>p{}</style></head><body>
      <nav>Menu</nav><h1>Fish &amp; <em>chips</em></h1><p>One<br>two <b>bo</b>ld.</p><script>evil()</script>
      <div>Block
 of words</div>after<pre>a
  b</pre><!-- hidden --><h2>Prices</h2><table><tr><td>Cod</td><td>9&nbsp;EUR</td></tr></table></body>"""
    assert read(text) == [
        Section("Menu", None),
        Section("One\ntwo bold.\n\nBlock of words\n\nafter\n\na\nb", "Fish & chips"),
        Section("Cod 9 EUR", "Fish & chips > Prices"),
    ]


def test_word_keeps_headings_lists_and_tables() -> None:
    """Styles by their built-in names, whatever language of Word wrote them; outline levels; rows of tables on lines."""
    table = "<w:tbl><w:tr>{}{}</w:tr><w:tr>{}{}</w:tr></w:tbl>".format(
        *(f"<w:tc>{paragraph(text)}</w:tc>" for text in ("Fish", "Price", "Cod", "9 EUR"))
    )
    item = "<w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>one</w:t></w:r></w:p>"
    body = "".join(
        [
            paragraph("Before."),
            paragraph("Handbook", "Titel"),
            paragraph("Leave", "berschrift1"),
            paragraph("Thirty days."),
            item,
            paragraph("Parents", "berschrift2"),
            paragraph("More."),
            paragraph("Detail", "Own"),
            table,
            paragraph("Prices", "berschrift1"),
            "<w:p><w:pPr><w:outlineLvl w:val='1'/></w:pPr><w:r><w:t>By outline</w:t></w:r></w:p>",
            paragraph("End.", "Unknown"),
        ]
    )
    assert read(raw_docx(body)) == [
        Section("Before."),
        Section("Handbook", "Handbook"),
        Section("Thirty days.\n- one", "Handbook > Leave"),
        Section("More.", "Handbook > Leave > Parents"),
        Section("Fish | Price\nCod | 9 EUR", "Handbook > Leave > Parents > Detail"),
        Section("Handbook > Prices", "Handbook > Prices"),
        Section("End.", "Handbook > Prices > By outline"),
    ]


def test_word_shows_what_a_reader_sees() -> None:
    """Text in content controls and insertions is there; deleted text and fallbacks, which repeat it, are not."""
    run = "<w:r><w:t>{}</w:t></w:r>"
    body = (
        f"<w:sdt><w:sdtContent>{paragraph('Controlled.')}</w:sdtContent></w:sdt>"
        f"<w:p><w:ins>{run.format('New')}</w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
        f"<w:r><w:tab/><w:t>text</w:t><w:br/><w:t>next</w:t></w:r>"
        f"<mc:AlternateContent><mc:Choice>{run.format('!')}</mc:Choice><mc:Fallback>{run.format('?')}</mc:Fallback>"
        "</mc:AlternateContent></w:p>"
    )
    assert read(raw_docx(body)) == [Section("Controlled.\nNew text\nnext!")]


def test_a_document_of_word_itself_is_read() -> None:
    """What the library writes, with the styles that Word has."""
    from docx import Document

    document = Document()
    document.add_heading("Guide", 1)
    document.add_paragraph("An item", style="List Bullet")
    document.add_table(1, 2).rows[0].cells[0].text = "Cell"
    buffer = io.BytesIO()
    document.save(buffer)
    assert read(buffer.getvalue()) == [Section("An item\nCell", "Guide")]


def packed(data: bytes, change: Callable[[bytearray], None]) -> bytes:
    """The bytes with something changed by hand."""
    changed = bytearray(data)
    change(changed)
    return bytes(changed)


def lie_about_sizes(data: bytearray) -> None:
    """Say of the document's own text that it unfolds to ten bytes."""
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        if data[place + 46 :].startswith(b"word/document.xml"):
            data[place + 24 : place + 28] = (10).to_bytes(4, "little")
        place = data.find(b"PK\x01\x02", place + 4)


def overlap(data: bytearray) -> None:
    """Have every entry of the listing say that it is as long as the whole file."""
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        data[place + 20 : place + 24] = len(data).to_bytes(4, "little")
        place = data.find(b"PK\x01\x02", place + 4)


def encrypt(data: bytearray) -> None:
    """Mark the document's own text as encrypted."""
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        if data[place + 46 :].startswith(b"word/document.xml"):
            data[place + 8] |= 1
        place = data.find(b"PK\x01\x02", place + 4)


LAUGHS = "<!DOCTYPE x [<!ENTITY a '{}'>{}]>".format(
    "ha" * 50, "".join(f"<!ENTITY {chr(n + 1)} '{f'&{chr(n)};' * 20}'>" for n in range(ord("a"), ord("j")))
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(raw_docx(paragraph("x"), more={"bomb.xml": bytes(120_000_000)}), "unfolds", id="bomb"),
        pytest.param(raw_docx(paragraph("x"), more={f"{n}": b"" for n in range(5001)}), "unfolds", id="entries"),
        pytest.param(packed(raw_docx(paragraph("x")), overlap), "unfolds", id="overlapping"),
        pytest.param(packed(raw_docx(paragraph("x")), encrypt), "password", id="encrypted"),
        pytest.param(raw_docx("<w:p><w:unclosed>"), "damaged", id="no-xml"),
        pytest.param(raw_docx("<w:p>" * 3000 + "</w:p>" * 3000), "damaged", id="nested"),
        pytest.param(raw_docx(""), "no text", id="empty"),
        pytest.param(raw_docx(paragraph("&j;"), doctype=LAUGHS), "damaged|no text", id="billion-laughs"),
        pytest.param(raw_docx(paragraph("word " * 50_000)), "more than 200,000 characters", id="long"),
    ],
)
def test_a_word_document_that_cannot_be_read_says_why(data: bytes, message: str) -> None:
    """Bombs, tricks and damage end in a message for the owner, and soon."""
    started = time.monotonic()
    with pytest.raises(UnreadableError, match=message):
        extract(data, MediaType.DOCX, LIMITS)
    assert time.monotonic() - started < 10


def test_an_archive_that_lies_about_its_sizes_unfolds_no_further() -> None:
    """What an entry announces is all that is ever unpacked of it."""
    with pytest.raises(UnreadableError, match="damaged"):
        read(packed(raw_docx(paragraph("word " * 30_000)), lie_about_sizes))


def test_entities_bring_nothing_in() -> None:
    """Neither a file of this machine nor an address is read for a document."""
    doctype = '<!DOCTYPE x [<!ENTITY secret SYSTEM "file:///etc/passwd"><!ENTITY net SYSTEM "http://127.0.0.1:9/">]>'
    try:
        text = str(read(raw_docx(paragraph("&secret;&net;Visible."), doctype=doctype)))
    except UnreadableError:
        return
    assert "root:" not in text


def test_an_unclosed_heading_loses_no_text() -> None:
    """Broken HTML is read as far as it goes."""
    assert "important" in " ".join(section.text for section in read(b"<h1>Never closed <p>important"))


@pytest.mark.parametrize("tag", ["<b>", "<div>", "<h1>", "<table><tr><td>", "<a><a></b>"])
def test_html_nested_very_deeply_is_read_or_refused(tag: str) -> None:
    """Depth costs neither a stack overflow nor minutes."""
    data = b"<html><body>" + tag.encode() * 20_000 + b"bottom"
    started = time.monotonic()
    assert "bottom" in " ".join(section.text for section in read(data))
    assert time.monotonic() - started < 20


def test_html_with_too_many_tags_is_refused() -> None:
    """A file of nothing but tags would take gigabytes once parsed."""
    with pytest.raises(UnreadableError, match="tags"):
        read(b"<html>" + b"<a>" * (MAX_TAGS + 1))


@pytest.mark.parametrize(
    "data", [b"", b"   \n\n", b"<html><script>only()</script></html>", "\u200b\ufeff\u00ad".encode()]
)
def test_a_file_without_text_says_so(data: bytes) -> None:
    """There is nothing to search in, and the owner should know."""
    with pytest.raises(UnreadableError, match="no text"):
        read(data)


def test_more_text_than_allowed_is_refused() -> None:
    """The limit counts characters of text, whatever the format."""
    for data in (b"word " * 3_000, b"# T\n" + b"word " * 3_000, pdf(["word " * 3_000])):
        with pytest.raises(UnreadableError, match="more than 10,000 characters"):
            read(data, Limits(pages=50, characters=10_000))


def test_clean_text_can_always_be_stored() -> None:
    """What PostgreSQL or UTF-8 would refuse is gone; composed and decomposed letters become the same."""
    assert clean("a\x00b\ud800c\r\nd\re\u200bf  \t g\n\n\n\n\nh\ufeff\x85 ") == "abc\nd\nef g\n\nh"
    assert clean("e\u0301") == "\u00e9"


def test_a_line_is_one_line_and_reads_in_one_direction() -> None:
    """A name cannot hide its end by turning the direction of writing."""
    assert clean_line("report\u202efdp.exe\nsecond\x00line\t!") == "reportfdp.exe second line !"


def test_shortening_says_that_something_is_missing() -> None:
    """The result never exceeds the length."""
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdef", 4) == "abc…"
