"""PDF to sections: one for each page, under the bookmark that it belongs to."""

import re
import time
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

from app.features.documents.extraction.base import Limits, Section, UnreadableError

if TYPE_CHECKING:
    from pypdf import PdfReader

# What one compressed stream may grow to. The text of a page needs a thousandth of it, a bomb a thousand times as much.
STREAM_BYTES = 20_000_000

_HYPHENATION = re.compile(r"(?<=[^\W\d_])-\n(?=[a-zß-öø-ÿ])")


def pdf_sections(data: bytes, limits: Limits) -> Iterator[Section]:
    """The pages of a PDF that hold text.

    Raises:
        UnreadableError: damaged, protected by a password, or larger inside than the limits allow.
    """
    from pypdf import PdfReader, apply_configuration
    from pypdf.errors import DependencyError, FileNotDecryptedError, LimitReachedError

    try:
        with apply_configuration(
            zlib_maximum_output_length=STREAM_BYTES,
            lzw_maximum_output_length=STREAM_BYTES,
            run_length_maximum_output_length=STREAM_BYTES,
            array_based_stream_maximum_output_length=STREAM_BYTES,
            jbig2dec_binary=None,  # start no program, whatever is installed
        ):
            sections = _read(PdfReader(BytesIO(data)), limits)
    except (UnreadableError, MemoryError):
        raise
    except (FileNotDecryptedError, DependencyError) as error:
        raise UnreadableError("The PDF is protected by a password. Upload it without one.") from error
    except LimitReachedError as error:
        raise UnreadableError("The PDF unfolds to far more than a document of its size holds.") from error
    except Exception as error:  # damaged files also end in KeyError, RecursionError and others
        raise UnreadableError("The PDF is damaged and cannot be read.") from error
    yield from sections


def _read(reader: "PdfReader", limits: Limits) -> list[Section]:
    deadline = time.monotonic() + limits.seconds
    pages = len(reader.pages)
    if pages > limits.pages:
        raise UnreadableError(f"The PDF has {pages:,} pages; at most {limits.pages:,} are taken.")
    titles = _bookmarks(reader)
    heading: str | None = None
    sections: list[Section] = []
    characters = 0
    for number, page in enumerate(reader.pages, start=1):
        if time.monotonic() > deadline:
            raise UnreadableError("The PDF is too complex to be read.")
        text = page.extract_text()
        characters += len(text)
        if characters > limits.characters:
            raise UnreadableError(f"The PDF holds more than {limits.characters:,} characters of text.")
        heading = titles.get(number, heading)
        sections.append(Section(_HYPHENATION.sub("", text), heading, number))
    return sections


def _bookmarks(reader: "PdfReader") -> dict[int, str]:
    """Page → the first bookmark that points to it; empty when there are none or they are damaged."""
    found: dict[int, str] = {}
    try:
        stack: list[Iterator[Any]] = [iter(reader.outline)]
        while stack:
            item = next(stack[-1], None)
            if item is None:
                stack.pop()
            elif isinstance(item, list):
                stack.append(iter(item))
            elif item.title and (page := reader.get_destination_page_number(item)) is not None:
                found.setdefault(page + 1, str(item.title))
    except Exception:  # noqa: BLE001  # bookmarks only help; their damage says nothing about the text
        return {}
    return found
