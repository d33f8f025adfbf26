"""What a file is, judged by its bytes."""

import io
import re
import zipfile
import zlib
from itertools import islice

from app.features.documents.extraction.base import MediaType, UnsupportedError
from app.features.documents.extraction.text import decode

_PDF_HEADER = re.compile(rb"%PDF-\d\.\d")
# Text by their bytes, but not by what they are: XML, SVG, other doctypes, PHP, RTF, PostScript.
_OTHER_FORMATS = re.compile(r"<\?xml|<\?php|<svg[\s>]|<!doctype\s+(?!html)|\{\\rtf|%!PS", re.IGNORECASE)
_LEAD = r"(?:<!--.{0,2000}?-->\s*){0,20}"
_HTML_DOCUMENT = re.compile(
    rf"(?:<\?xml[^>]{{0,200}}\?>\s*)?{_LEAD}<(?:!doctype\s+html|html|head|body)[\s>]", re.IGNORECASE | re.DOTALL
)
# After the WHATWG's table of what begins HTML.
_HTML_FRAGMENT = re.compile(
    rf"{_LEAD}<(?:a|article|b|br|div|font|h[1-6]|iframe|link|main|meta|ol|p|script|section|style|table|title|ul)[\s/>]",
    re.IGNORECASE | re.DOTALL,
)
_MARKDOWN_HEADING = re.compile(r"^ {0,3}#{1,6} +\S", re.MULTILINE)
_MARKDOWN_SIGNS = (
    re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE),
    re.compile(r"\[[^\[\]\n]{1,200}\]\((?:https?://|/|\.|#)[^()\s]{0,500}\)"),
    re.compile(r"^ {0,3}[-*+] \S", re.MULTILINE),
    re.compile(r"^ {0,3}> \S", re.MULTILINE),
    re.compile(r"(?<!\*)\*\*[^*\s][^*\n]{0,200}\*\*"),
    re.compile(r"^\|[ :|-]{3,500}\|[ ]*$", re.MULTILINE),
    re.compile(r"^ {0,3}\S.*\n={3,}[ \t]*$", re.MULTILINE),
)
# How much of a text is looked at to tell Markdown from plain text.
_SAMPLE = 65_536
# A ZIP archive is found by the record at its end, which at most 65,535 bytes of comment may follow.
_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 66_000
_PDF_TAIL = 1024
# The record itself, where no comment follows, and the longest listing of an archive that is worth reading.
_ZIP_END_BYTES = 22
_ZIP_LISTING = 1_000_000
_ENCRYPTED = 0x1
_WORD_DOCUMENT = b"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"


def detect(data: bytes) -> MediaType:
    """The kind of a file.

    Raises:
        UnsupportedError: another kind, a binary, or a polyglot: a file that is two things at once, such as a PDF
            that is also a ZIP archive, so that one program lets it pass and another one runs it.
    """
    if data.startswith(b"%PDF-"):
        _refuse_attachment(data)
        return MediaType.PDF
    if data.startswith(b"PK\x03\x04"):
        _refuse_other_archives(data)
        return MediaType.DOCX
    text = decode(data)
    if text is None:
        raise UnsupportedError
    if _PDF_HEADER.search(data, 0, _PDF_TAIL) and b"startxref" in data[-2 * _PDF_TAIL :]:
        raise UnsupportedError("This file is a PDF with something else in front of it.")
    start = text[:8192].lstrip()
    if _HTML_DOCUMENT.match(start):
        return MediaType.HTML
    if _OTHER_FORMATS.match(start):
        raise UnsupportedError
    if _is_markdown(text[:_SAMPLE].replace("\r\n", "\n")):
        # Asked before the fragment: Markdown often begins with a line of HTML, such as a centred logo.
        return MediaType.MARKDOWN
    return MediaType.HTML if _HTML_FRAGMENT.match(start) else MediaType.TEXT


def _refuse_attachment(data: bytes) -> None:
    tail = data[-_ZIP_TAIL:]
    after_end = tail.rpartition(b"%%EOF")[2] if b"%%EOF" in tail else b""
    if _ZIP_END in tail or len(after_end.strip(b"\0\r\n\t \x1a")) > _PDF_TAIL:
        raise UnsupportedError("This file is a PDF with something else attached to it.")


def _refuse_other_archives(data: bytes) -> None:
    """Only a Word document that is nothing else: the archive is the whole file, small to list, and holds no macros."""
    end = data[-_ZIP_END_BYTES:]
    listing, start = int.from_bytes(end[12:16], "little"), int.from_bytes(end[16:20], "little")
    # Word writes no comment behind the archive and nothing in front; only what hides something there does.
    if not end.startswith(_ZIP_END) or start + listing + _ZIP_END_BYTES != len(data) or listing > _ZIP_LISTING:
        raise UnsupportedError
    if _PDF_HEADER.search(data, 0, _PDF_TAIL):
        raise UnsupportedError("This file is a Word document that is also a PDF.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            kinds = archive.getinfo("[Content_Types].xml")
            if kinds.file_size > _ZIP_LISTING or kinds.flag_bits & _ENCRYPTED:
                raise UnsupportedError
            declared = archive.read(kinds)
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise UnsupportedError from error
    if any(name.startswith("/") or "\\" in name or ".." in name.split("/") for name in names):
        raise UnsupportedError
    if b"macroEnabled" in declared or any(name.lower().endswith("vbaproject.bin") for name in names):
        raise UnsupportedError("Word documents with macros are not taken.")
    if _WORD_DOCUMENT not in declared:
        raise UnsupportedError


def _is_markdown(text: str) -> bool:
    """Two signs, or a heading at the very beginning: one "# x" alone may be a comment in a shell script."""
    if text.startswith("#!"):
        return False
    headings = len(list(islice(_MARKDOWN_HEADING.finditer(text), 2)))
    signs = sum(1 for sign in _MARKDOWN_SIGNS if sign.search(text))
    return headings + signs >= 2 or _MARKDOWN_HEADING.match(text) is not None
