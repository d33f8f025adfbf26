"""The words in which extraction speaks."""

from dataclasses import dataclass
from enum import StrEnum


class MediaType(StrEnum):
    """The kinds of file that are understood."""

    TEXT = "text/plain"
    MARKDOWN = "text/markdown"
    HTML = "text/html"
    PDF = "application/pdf"
    DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


class UnsupportedError(Exception):
    """The bytes are of no kind that is understood, or of two at once; the message is for whoever sent them."""

    def __init__(
        self, detail: str = "Only PDF, Word (DOCX), HTML, Markdown and plain text in UTF-8 are taken."
    ) -> None:
        super().__init__(detail)


class UnreadableError(Exception):
    """The file cannot be read, now or later; the message is for its owner."""


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of text under one heading, or on one page.

    Attributes:
        text: the text, with line breaks.
        heading: path of headings such as "Install > Linux", or None.
        page: page from 1, or None where the format has no pages.
    """

    text: str
    heading: str | None = None
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a file may unfold to.

    Attributes:
        pages: of a PDF.
        characters: of text.
        unpacked: bytes of everything in an archive, and of one compressed stream of a PDF.
        seconds: of work; looked at between pages.
    """

    pages: int
    characters: int
    unpacked: int = 100_000_000
    seconds: float = 60.0


class Headings:
    """The path of headings above the current place."""

    def __init__(self) -> None:
        self._path: list[tuple[int, str]] = []

    def enter(self, level: int, title: str) -> None:
        """A heading begins; its level is from 1 (highest) to 6."""
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        if title:
            self._path.append((level, title))

    @property
    def path(self) -> str | None:
        """All of them on one line, highest first."""
        return " > ".join(title for _, title in self._path) or None
