"""Cutting text into passages: long enough to mean something, short enough to be an answer."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from app.features.documents.extraction import Limits, MediaType, Section, UnreadableError, extract

_SPACE = re.compile(r"\s")
# Where a text may be cut, best first: paragraphs, then sentences and lines (the escapes are the full stop, exclamation
# and question mark of Chinese and Japanese, after which no space follows), then words.
_BREAKS = (
    re.compile(r"\n\s*\n"),
    re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]]*\s|[\u3002\uff01\uff1f]|\n"),
    _SPACE,
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document.

    Attributes:
        position: its place in the document, from 0.
        text: never empty, and at most as many characters as were asked for.
        heading: the section it stands in, as a path.
        page: its page from 1, where the format has pages.
    """

    position: int
    text: str
    heading: str | None
    page: int | None


def passages(sections: Iterable[Section], *, characters: int, overlap: int) -> Iterator[Passage]:
    """Cut sections into passages, in order.

    No passage spans two sections, so that its heading and page are true of all of it. Passages of one section overlap,
    so that a sentence at a cut stands whole in one of them.

    Args:
        sections: text with heading and page.
        characters: length of the longest passage.
        overlap: how much of a passage the next one repeats at most; half of `characters` is the bound.
    """
    position = 0
    for section in sections:
        for start, end in spans(section.text, characters, min(overlap, characters // 2)):
            text = section.text[start:end].strip()
            if text:
                yield Passage(position, text, section.heading, section.page)
                position += 1


def cut(
    data: bytes, media_type: MediaType, limits: Limits, *, characters: int, overlap: int, most: int
) -> list[Passage]:
    """The passages of a file.

    Args:
        data: the whole file.
        media_type: what `detect` said it is.
        limits: how much it may unfold to.
        characters: length of the longest passage.
        overlap: see `passages`.
        most: more passages are not taken.

    Raises:
        UnreadableError: the file cannot be read, or makes too many.
    """
    found: list[Passage] = []
    for passage in passages(extract(data, media_type, limits), characters=characters, overlap=overlap):
        if len(found) == most:
            raise UnreadableError(f"The file makes more than {most:,} passages.")
        found.append(passage)
    return found


def spans(text: str, characters: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Start and end of each passage of one text; together they cover all of it."""
    start = 0
    while len(text) - start > characters:
        end = _cut(text, start, start + characters)
        yield start, end
        start = _resume(text, max(end - overlap, start + 1), end)
    if start < len(text):
        yield start, len(text)


def _cut(text: str, start: int, limit: int) -> int:
    """The last good place to cut in the second half of a passage; its limit when there is none."""
    middle = (start + limit) // 2
    for pattern in _BREAKS:
        last = None
        for match in pattern.finditer(text, middle, limit):
            last = match
        if last is not None:
            return last.end()
    return limit


def _resume(text: str, earliest: int, end: int) -> int:
    """Where the next passage begins: at the first word from `earliest` on, or at `end` when no word begins before."""
    if earliest >= end or text[earliest - 1].isspace():
        return earliest
    space = _SPACE.search(text, earliest, end)
    return space.end() if space else end
