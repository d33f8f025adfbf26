"""One mask for everything that leaves the process to be read by people: log lines, error reports, traces.

A value goes by its name (`password`, `authorization`, `email`, …) or by its look: e-mail addresses, telephone numbers,
card numbers, tokens, password hashes, and secrets written as `name=value` within a text. Rather once too often than
once too seldom; a name that only sounds secret is in `_HARMLESS`.
"""

import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from typing import Any
from uuid import UUID

MASK = "***"
# Deeper than anything that is meant to be read; also ends what contains itself.
MAX_DEPTH = 12

_WORDS = r"pass(?:word|wd|phrase)|pwd|secret|token|authorization|cookie|api_?key|private_?key|credential|dsn|signature|ticket"
_SECRET_NAME = re.compile(rf"{_WORDS}|(?:^|_)(?:e_?mail|phone|mobile|iban|card_number|ssn|otp)$", re.IGNORECASE)
_HARMLESS = re.compile(
    r"tokens|token_count|(?:\w+_)?tokens|token_type|\w+_token_(?:minutes|days|seconds)", re.IGNORECASE
)
# What is written as it is.
_PLAIN = (bool, int, float, date, UUID)

# One of these is in every text that anything below would find; most texts have none and are done after one search.
_SUSPECT = re.compile(r"[@=+$'\"]|eyJ|(?i:bearer|basic|cookie|passw)|\d[\d -]{8}")
_URL_PASSWORD = re.compile(r"(?<=://)([^:/?#\s@]*):[^/\s]+@")
# Repetitions before a fixed part are bounded: without that a long text takes the square of its length.
_EMAIL = re.compile(r"[\w.+%-]{1,64}(?:@|%40)[\w-]+(?:\.[\w-]+)+")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_JWT = re.compile(r"\beyJ[\w-]{5,}\.[\w-]+\.[\w-]*")
_HASH = re.compile(r"\$(?:argon2\w*|2[aby]|scrypt|pbkdf2[\w-]*)\$[^\s'\"]+")
_COOKIE = re.compile(r"(?i)\b((?:set-)?cookie:\s*)[^\r\n]+")
# name=value as in a query string or the repr of an object, "name": value as in JSON or the repr of a dict.
_PAIR = re.compile(
    rf"(?i)([\w-]{{0,32}}(?:{_WORDS})[\w-]{{0,32}})(=|['\"]\s*:\s*|(?<=password):\s*)"
    r"(?!(?:bearer|basic)\s)(b?\"(?:[^\"\\]|\\.)*\"|b?'(?:[^'\\]|\\.)*'|[^\s&,;)\]}]+)"
)
_PHONE = re.compile(r"(?<![\w.])\+\d(?:[ ().-]{0,2}\d){7,14}(?![\w])|(?<![\w.-])0\d{1,4}[ -]\d{3,4}[ -]\d{4}(?![\w-])")
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")


def masked(value: Any, depth: int = 0) -> Any:
    """`value` with secrets and personal data replaced by `***`, whatever it is made of; never the object itself."""
    if isinstance(value, str):
        return masked_text(value)
    if value is None or isinstance(value, _PLAIN):
        return value
    if depth > MAX_DEPTH:
        return MASK
    if isinstance(value, Mapping):
        return {
            (masked_text(key) if isinstance(key, str) else key): masked_item(key, item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        items = list(value)
        if len(items) == 2 and isinstance(items[0], str | bytes):  # a header, or any other pair of name and value
            return [masked(items[0], depth + 1), masked_item(_text(items[0]), items[1], depth + 1)]
        return [masked(item, depth + 1) for item in items]
    # Anything else is written as its repr, which may quote what a person sent: an exception does.
    return masked_text(repr(value))


def masked_item(name: object, value: Any, depth: int = 0) -> Any:
    """A value that has a name, which may say enough."""
    return MASK if value and isinstance(name, str) and is_secret_name(name) else masked(value, depth)


def masked_text(text: str) -> str:
    """A text without what looks like a secret or like personal data."""
    if not _SUSPECT.search(text):
        return text
    if "@" in text or "%40" in text:
        text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
        text = _EMAIL.sub(MASK, text)
    text = _COOKIE.sub(rf"\1{MASK}", text)
    text = _PAIR.sub(_masked_pair, text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    text = _HASH.sub(MASK, _JWT.sub(MASK, text))
    return _CARD.sub(_masked_card, _PHONE.sub(MASK, text))


@lru_cache(4096)
def is_secret_name(name: str) -> bool:
    """Whether what is called so is never shown."""
    name = name.replace("-", "_")
    return _SECRET_NAME.search(name) is not None and _HARMLESS.fullmatch(name) is None


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode("latin-1")


def _masked_pair(found: re.Match[str]) -> str:
    name, between, _ = found.groups()
    return f"{name}{between}{MASK}" if is_secret_name(name) else found[0]


def _masked_card(found: re.Match[str]) -> str:
    """Only what has the check digit of a card: other long numbers are ids and amounts."""
    total = 0
    for position, digit in enumerate(int(character) for character in reversed(found[0]) if character.isdigit()):
        doubled = digit * (1 + position % 2)
        total += doubled - 9 if doubled > 9 else doubled
    return MASK if total % 10 == 0 else found[0]
