"""What an uploaded file is, and the text in it: `detect` and `extract`.

Both judge by the bytes: names and declared types can lie. The parsers are loaded when first needed; pypdf costs 0.5 s.
Nothing here needs the rest of the service, so that it can run in a process of its own: see `__main__`.
"""

from collections.abc import Callable, Iterator

from app.features.documents.extraction.base import Limits, MediaType, Section, UnreadableError, UnsupportedError
from app.features.documents.extraction.detection import detect
from app.features.documents.extraction.docx import docx_sections
from app.features.documents.extraction.html import html_sections
from app.features.documents.extraction.markdown import markdown_sections
from app.features.documents.extraction.pdf import pdf_sections
from app.features.documents.extraction.text import clean, clean_line, decode, shorten

__all__ = ["Limits", "MediaType", "Section", "UnreadableError", "UnsupportedError", "detect", "extract"]

MAX_HEADING = 300


def extract(data: bytes, media_type: MediaType, limits: Limits) -> list[Section]:
    """The text of a file with its headings and pages, in order. Takes CPU time, and of a hostile file all it can get.

    Args:
        data: the whole file.
        media_type: what `detect` said it is.
        limits: how much it may unfold to.

    Raises:
        UnreadableError: damaged, protected, without text, or larger inside than the limits allow.
    """
    found: list[Section] = []
    characters = 0
    for section in _sections(data, media_type, limits):
        heading = shorten(clean_line(section.heading or ""), MAX_HEADING) or None
        # A heading without a text below it can still be what somebody looks for.
        text = clean(section.text) or (heading if section.page is None and heading else "")
        characters += len(text)
        if characters > limits.characters:
            raise UnreadableError(f"The file holds more than {limits.characters:,} characters of text.")
        if text:
            found.append(Section(text, heading, section.page))
    if not found and media_type is MediaType.PDF:
        raise UnreadableError("The PDF holds no text. If it is a scan, run text recognition (OCR) on it first.")
    if not found:
        raise UnreadableError("The file holds no text.")
    return found


def _sections(data: bytes, media_type: MediaType, limits: Limits) -> Iterator[Section]:
    if media_type is MediaType.PDF:
        return pdf_sections(data, limits)
    if media_type is MediaType.DOCX:
        return docx_sections(data, limits)
    text = decode(data)
    if text is None:
        raise UnreadableError("The file is not text in UTF-8.")
    readers: dict[MediaType, Callable[[str], Iterator[Section]]] = {
        MediaType.HTML: html_sections,
        MediaType.MARKDOWN: markdown_sections,
        MediaType.TEXT: lambda plain: iter([Section(plain)]),
    }
    return readers[media_type](text)
