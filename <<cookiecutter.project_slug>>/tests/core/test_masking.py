"""The mask: what must never be shown is not, whatever holds it; and what is useful stays."""

import time
import timeit
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from app.core.masking import MASK, MAX_DEPTH, is_secret_name, masked, masked_text


@dataclass
class Sent:
    """What somebody sent, as an object."""

    password: str
    name: str


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("write to ada.l+x@mail.example.com, please", f"write to {MASK}, please"),
        ("?email=ada%40example.com&page=2", f"?email={MASK}&page=2"),
        ("postgresql://app:hunter2@db:5432/app", f"postgresql://app:{MASK}@db:5432/app"),
        ("redis://:p%40ss@cache/0 and https://u:p@x.org", f"redis://:{MASK}@cache/0 and https://u:{MASK}@x.org"),
        ("redis://:p@ss@cache/0", f"redis://:{MASK}@cache/0"),
        ("Authorization: Bearer eyJhbGciOi.x-y_z", f"Authorization: Bearer {MASK}"),
        ("it was eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl!", f"it was {MASK}!"),
        ("Cookie: session=hunter2; theme=dark\nHost: x", f"Cookie: {MASK}\nHost: x"),
        ("/reset?token=hunter2&next=/home", f"/reset?token={MASK}&next=/home"),
        ("https://s3/b/k?X-Amz-Signature=hunter2&X-Amz-Date=1", f"https://s3/b/k?X-Amz-Signature={MASK}&X-Amz-Date=1"),
        ('{"password": "hun\\"ter2", "name": "x"}', f'{{"password": {MASK}, "name": "x"}}'),
        ("{'api_key': 'hunter2', 'n': 1}", f"{{'api_key': {MASK}, 'n': 1}}"),
        (Sent("hunter2", "x"), f"Sent(password={MASK}, name='x')"),
        ("password: hunter2", f"password: {MASK}"),
        ("$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA is kept", f"{MASK} is kept"),
        ("call +49 (0)151 2345-6789 or +821012345678", f"call {MASK} or {MASK}"),
        ("call 010-1234-5678", f"call {MASK}"),
        ("paid with 4111 1111 1111 1111.", f"paid with {MASK}."),
        ("5500-0000-0000-0004", MASK),
        ({"password": "x", "user": {"api_key": "y", "n": "z"}}, {"password": MASK, "user": {"api_key": MASK, "n": "z"}}),
        ([{"Set-Cookie": "a"}, ("ada@example.com", 1)], [{"Set-Cookie": MASK}, [MASK, 1]]),
        ({"headers": [[b"authorization", b"x"], ("Cookie", "y")]}, {"headers": [["b'authorization'", MASK], ["Cookie", MASK]]}),
        ({"ada@example.com": {"phone": "555"}}, {MASK: {"phone": MASK}}),
        ({"token": "", "tokens": 5, "prompt_tokens": 6}, {"token": "", "tokens": 5, "prompt_tokens": 6}),
        (ValueError("ada@example.com"), f"ValueError('{MASK}')"),
        ({"deep": [{"er": {"error": OSError("https://u:h2@x")}}]}, {"deep": [{"er": {"error": f"OSError('https://u:{MASK}@x')"}}]}),
        (b"ada@example.com", f"b'{MASK}'"),
        (None, None),
        (True, True),
        (3.5, 3.5),
    ],
)  # fmt: skip
def test_what_is_masked(given: object, expected: object) -> None:
    """By name and by look, at any depth, in texts and in what becomes a text."""
    assert masked(given) == expected


@pytest.mark.parametrize(
    "harmless",
    [
        "no secret: a@b, user@host",
        "2026-11-21T06:30:00.123456+00:00",
        "2026-11-21 06:30:00+00:00",
        "0199f3a2-7c11-7abc-8123-456789012345",
        "order 1234 5678 9012 3456",  # not a card: the check digit is wrong
        "took 1763706600123456789 ns",
        "SELECT id FROM users WHERE token = $1",
        "the token has expired; Bearer is missing",
        "max_tokens=100 token_type=bearer",
        "10.0.0.1:52114 - GET /api/v1/things/5",
        "a + b = c",
        'File "/app/core/db.py", line 12, in connect',
    ],
)
def test_what_is_useful_stays(harmless: str) -> None:
    """A mask over everything would be no log at all."""
    assert masked_text(harmless) == harmless


def test_ids_and_times_stay_what_they_are() -> None:
    """Lines are searched by them."""
    value = {"id": UUID(int=5), "at": datetime(2026, 11, 21, tzinfo=UTC), "n": 4111111111111111}
    assert masked(value) == value


def test_what_contains_itself_ends() -> None:
    """And what is deeper than anybody reads."""
    loop: dict[str, Any] = {"password": "hunter2"}
    loop["again"] = loop
    assert "hunter2" not in repr(masked(loop))
    deep: Any = "ada@example.com"
    for _ in range(MAX_DEPTH * 2):
        deep = [deep]
    assert "ada" not in repr(masked(deep))


def test_the_original_is_left_alone() -> None:
    """What is logged is still needed afterwards."""
    original = {"password": "hunter2", "list": ["ada@example.com"]}
    masked(original)
    assert original == {"password": "hunter2", "list": ["ada@example.com"]}


@pytest.mark.parametrize(
    "name", ["PASSWORD", "x-api-key", "AccessToken", "smtp_password", "user_email", "Proxy-Authorization"]
)
def test_names_of_secrets(name: str) -> None:
    """However they are written."""
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["name", "tokens", "email_provider", "access_token_minutes", "monkey", "mailbox_count"]
)
def test_names_that_only_sound_secret(name: str) -> None:
    """They are needed, for costs above all."""
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("before", "repeated", "after"),
    [
        ("", "a@", ""),
        ("", "1 ", ""),
        ("", "password", ""),
        ("", "eyJ", ""),
        ("", "+1 ", ""),
        ("", "'", ""),
        ("password='", "\\", ""),
        ("", "x", "@"),
    ],
)
def test_a_longer_text_takes_longer_in_proportion(before: str, repeated: str, after: str) -> None:
    """What a client sends decides what is matched: no text may hold up the process. Squared, four times would be sixteen."""

    def seconds(characters: int) -> float:
        text = before + repeated * (characters // len(repeated)) + after
        return min(timeit.repeat(lambda: masked_text(text), timer=time.process_time, number=1, repeat=3))

    assert seconds(40_000) < 10 * max(seconds(10_000), 0.001)
