"""HTML to sections: headings and text, without scripts, styles and markup."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from app.features.documents.extraction.base import Headings, Section, UnreadableError

if TYPE_CHECKING:
    from bs4 import Tag
    from bs4.element import PageElement

# A parsed tag takes about 1 KB: without a limit, 10 MiB of "<a>" would fill 4 GB.
MAX_TAGS = 200_000

_WHITESPACE = re.compile(r"\s+")
_LEVELS = {f"h{level}": level for level in range(1, 7)}
_CELLS = frozenset({"td", "th"})
_SKIPPED = frozenset(
    "head iframe math noscript object script select style svg template title".split()  # noqa: SIM905  # a word a line
)
_INLINE = frozenset(
    (  # noqa: SIM905  # a word a line would be forty lines
        "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark q s samp small span strike"
        " strong sub sup time tt u var wbr"
    ).split()
)


def html_sections(text: str) -> Iterator[Section]:
    """One section for each heading and what stands before the first; block elements become paragraphs.

    Raises:
        UnreadableError: more than `MAX_TAGS` tags.
    """
    from bs4 import BeautifulSoup
    from bs4.element import NavigableString, PreformattedString

    if text.count("<") > MAX_TAGS:
        raise UnreadableError(f"The HTML holds more than {MAX_TAGS:,} tags.")
    headings = Headings()
    body: list[str] = []
    preformatted = 0  # how many <pre> the place is in: there, line breaks count
    title: list[str] | None = None  # the parts of a heading while inside it
    for element, entering in _walk(BeautifulSoup(text, "html.parser")):
        parts = body if title is None else title
        if isinstance(element, NavigableString):
            # Comments, doctypes and CDATA are preformatted strings; scripts and styles were not entered.
            if not isinstance(element, PreformattedString):
                parts.append(str(element) if preformatted else _WHITESPACE.sub(" ", element))
        elif level := _LEVELS.get(_name(element)):
            if entering:
                yield Section("".join(body), headings.path)
                body, title = [], []
            elif title is not None:
                headings.enter(level, " ".join("".join(title).split()))
                title = None
        else:
            parts.append(_separator(_name(element), entering))
            if _name(element) == "pre":
                preformatted += 1 if entering else -1
    yield Section("".join(body) + " ".join(title or ()), headings.path)


def _separator(name: str, entering: bool) -> str:
    if name == "br":
        return "\n" if entering else ""
    if name in _INLINE:
        return ""
    return " " if name in _CELLS else "\n\n"


def _name(element: "PageElement") -> str:
    name: str = getattr(element, "name", "") or ""
    return name


def _walk(root: "Tag") -> Iterator[tuple["PageElement", bool]]:
    """Every element below `root` in order, tags twice: entering and leaving. Deep nesting costs no recursion."""
    from bs4 import Tag

    stack = [(root, iter(root.contents))]
    while stack:
        tag, children = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            if stack:
                yield tag, False
        elif not isinstance(child, Tag):
            yield child, True
        elif child.name not in _SKIPPED:
            yield child, True
            stack.append((child, iter(child.contents)))
