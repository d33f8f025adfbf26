"""Word documents to sections: one for each heading and what stands before the first, with lists and tables as lines.

A document is a ZIP archive of XML. Its sizes are looked at before anything is unpacked; Python's zipfile never gives more
than an entry announced. The XML parser resolves no entities and loads nothing from outside.
"""

import io
import zipfile
from collections.abc import Iterator
from typing import Any

from app.features.documents.extraction.base import Headings, Limits, Section, UnreadableError

Element = Any  # lxml's, which carries no annotations

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_TITLE_LEVEL = 0
MAX_ENTRIES = 5000
MAX_ELEMENTS = 1_000_000


def docx_sections(data: bytes, limits: Limits) -> Iterator[Section]:
    """The text of a Word document.

    Raises:
        UnreadableError: damaged, protected, or larger inside than the limits allow.
    """
    _check_archive(data, limits)
    from docx import Document

    try:
        document = Document(io.BytesIO(data))
        body = document.element.body
        levels = _levels(document.styles.element)
    except MemoryError:
        raise
    except Exception as error:  # damaged files end in KeyError, XMLSyntaxError, AttributeError and others
        raise UnreadableError("The Word document is damaged and cannot be read.") from error
    yield from _sections(body, levels)


def _check_archive(data: bytes, limits: Limits) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UnreadableError("The Word document is damaged and cannot be read.") from error
    if any(entry.flag_bits & 0x1 for entry in entries):
        raise UnreadableError("The Word document is protected by a password. Upload it without one.")
    # More packed bytes than the file has: the entries lie on top of each other, so that each unpacks the same ones.
    overlapping = sum(entry.compress_size for entry in entries) > len(data)
    if overlapping or len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > limits.unpacked:
        raise UnreadableError("The Word document unfolds to far more than a document of its size holds.")


def _levels(styles: Element) -> dict[str, int]:
    """Style → level of heading. Names of the built-in styles are English in every language of Word; ids are not."""
    found: dict[str, int] = {}
    for style in styles.iter(f"{_W}style"):
        identity, name = style.get(f"{_W}styleId", ""), _value(style, "name").lower()
        outline = style.find(f"{_W}pPr/{_W}outlineLvl")
        if name == "title":
            found[identity] = _TITLE_LEVEL
        elif name.startswith("heading ") and name[8:].isdigit():
            found[identity] = int(name[8:])
        elif outline is not None and (level := _number(outline)) is not None:
            found[identity] = level
    return found


def _number(outline: Element) -> int | None:
    value = outline.get(f"{_W}val", "")
    return int(value) + 1 if value in set("012345678") else None


def _value(element: Element, name: str) -> str:
    found = element.find(f"{_W}{name}")
    value: str = found.get(f"{_W}val", "") if found is not None else ""
    return value


def _sections(body: Element, levels: dict[str, int]) -> Iterator[Section]:
    headings = Headings()
    lines: list[str] = []
    for level, line in _lines(body, levels):
        if level is None:
            lines.append(line)
        else:
            yield Section("\n".join(lines), headings.path)
            lines = []
            headings.enter(level, " ".join(line.split()))
    yield Section("\n".join(lines), headings.path)


def _lines(body: Element, levels: dict[str, int]) -> Iterator[tuple[int | None, str]]:
    """Each paragraph outside of tables, with its level when it is a heading, and each row of a table."""
    walk = _Walk(body)
    for element in walk:
        if element.tag == f"{_W}tbl":
            for row in element.iter(f"{_W}tr"):
                cells = (" ".join(_text(cell).split()) for cell in row.iterchildren(f"{_W}tc"))
                if line := " | ".join(cells).strip(" |"):
                    yield None, line
            yield None, ""
            walk.skip()
        elif element.tag == f"{_W}p":
            yield _paragraph(element, levels)
            walk.skip()


def _paragraph(element: Element, levels: dict[str, int]) -> tuple[int | None, str]:
    text = _text(element).strip()
    properties = element.find(f"{_W}pPr")
    if properties is None or not text:
        return None, text
    outline = properties.find(f"{_W}outlineLvl")
    level = levels.get(_value(properties, "pStyle"))
    if level is None and outline is not None:
        level = _number(outline)
    if level is None and properties.find(f"{_W}numPr") is not None:
        return None, f"- {text}"
    return level, text


def _text(element: Element) -> str:
    """What a reader sees of an element; deleted text has another tag, and a fallback repeats what stands before it."""
    parts: list[str] = []
    walk = _Walk(element)
    for found in walk:
        if found.tag == f"{_W}t":
            parts.append(found.text or "")
        elif found.tag == f"{_W}tab":
            parts.append("\t")
        elif found.tag in (f"{_W}br", f"{_W}cr") or (found.tag == f"{_W}p" and parts):
            parts.append("\n")
        elif found.tag == _FALLBACK:
            walk.skip()
    return "".join(parts)


class _Walk:
    """The elements below one, in order, without recursion; what `skip` is called at is not entered."""

    def __init__(self, root: Element) -> None:
        self._stack: list[Iterator[Any]] = [iter(root)]
        self._entered: Any = None
        self._seen = 0

    def __iter__(self) -> Iterator[Any]:
        while self._stack:
            if self._entered is not None:
                self._stack.append(iter(self._entered))
                self._entered = None
            found = next(self._stack[-1], None)
            if found is None:
                self._stack.pop()
                continue
            self._seen += 1
            if self._seen > MAX_ELEMENTS:
                raise UnreadableError("The Word document is too complex to be read.")
            self._entered = found
            yield found

    def skip(self) -> None:
        """Do not enter the element that was given last."""
        self._entered = None
