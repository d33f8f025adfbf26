"""Markdown to sections. Headings are read; the rest stays as it is, for people read Markdown too."""

import re
from collections.abc import Iterator

from app.features.documents.extraction.base import Headings, Section

_HASHES = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_LINK = re.compile(r"!?\[([^\[\]]{0,200})\]\([^()\s]{0,1000}\)")
_EMPHASIS = re.compile(r"[*_`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}(?=\s|$)|[*`]")
# A line that begins so is a list, a quotation, a table or a heading, and no title for the dashes below it.
_NO_TITLE = ("-", "*", "+", ">", "|", "#", "<")


def markdown_sections(text: str) -> Iterator[Section]:
    """One section for each heading and what stands before the first; lines in code fences are never headings."""
    headings = Headings()
    body: list[str] = []
    fence = ""
    for line in text.splitlines():
        if mark := _FENCE.match(line):
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence) and not line.strip("`~ \t"):
                fence = ""
        heading = None if fence else _heading(line, body)
        if heading is None:
            body.append(line)
        else:
            yield Section("\n".join(body), headings.path)
            body = []
            headings.enter(*heading)
    yield Section("\n".join(body), headings.path)


def _heading(line: str, body: list[str]) -> tuple[int, str] | None:
    """Level and title when a heading ends with this line; takes an underlined title out of `body`."""
    if match := _HASHES.match(line):
        title = (match[2] or "").rstrip()
        unclosed = title.rstrip("#")  # "## Title ##", but not "## C#"
        return len(match[1]), _bare(unclosed if unclosed[-1:] in ("", " ", "\t") else title)
    if (match := _UNDERLINE.match(line)) and body and body[-1].strip() and not (len(body) > 1 and body[-2].strip()):
        title = body[-1].strip()
        if not title.startswith(_NO_TITLE):
            body.pop()
            return (1 if match[1].startswith("=") else 2), _bare(title)
    return None


def _bare(title: str) -> str:
    return _EMPHASIS.sub("", _LINK.sub(r"\1", title)).strip()
