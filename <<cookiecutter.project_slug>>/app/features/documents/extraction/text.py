"""Bytes to text, and text to clean text."""

import re
import unicodedata

_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),  # before UTF-16, whose mark it begins with
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# What no text holds, by the WHATWG's MIME sniffing standard; it allows ESC, for terminal logs.
_BINARY = re.compile("[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
# Control characters, and the invisible ones that would hide a word from the search.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff\ufffe\uffff]")
# Characters that turn the direction of what follows: in a title they can make one name look like another.
_DIRECTION = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n{3,}")


def decode(data: bytes) -> str | None:
    """The text that `data` is in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; None when it is not text."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    return None if _BINARY.search(text) else text


def clean(text: str) -> str:
    """Text as it is stored: NFC, line feeds, nothing invisible, no runs of blanks or of empty lines.

    PostgreSQL refuses NUL and UTF-8 refuses lone surrogates; a broken PDF can hold both.
    """
    text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode("utf-8"))
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n")
    lines = (_SPACES.sub(" ", line).strip() for line in _INVISIBLE.sub("", text).split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def clean_line(text: str) -> str:
    """Text on one line: clean, and without marks that turn the direction of writing."""
    # Control characters separate words here, where `clean` would join them.
    return " ".join(_DIRECTION.sub("", clean(re.sub(r"[\x00-\x1f]", " ", text))).split())


def shorten(text: str, length: int) -> str:
    """At most `length` characters, with an ellipsis where something was left out."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
