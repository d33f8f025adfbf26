"""`.env.example` tells the truth, and `.env` is written once."""

import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dotenv import dotenv_values

from app.core.envfile import COMPOSE, GENERATED, example, write
from app.core.project import ROOT
from app.core.settings import documented, is_generated, load_settings, redacted
from app.features import settings_of_features


def variables(text: str) -> dict[str, str]:
    """The variables of an env file's text."""
    return dict(line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z]", line))


def test_the_example_is_the_settings() -> None:
    """`.env.example` is what `make generate` writes now."""
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == example(settings_of_features())


def test_every_variable_has_a_comment() -> None:
    """Nobody has to read the code to know what a variable means."""
    before = ""
    for line in example(settings_of_features()).splitlines():
        if re.match(r"[A-Z]", line):
            assert re.match(r"# .", before), line
        before = line
    for _, text, fields in documented(settings_of_features()):
        assert text or fields[0][0] == "ENVIRONMENT"
        for variable, field in fields:
            assert field.description, variable


def test_the_example_holds_no_secret_and_loads(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Copied as it is, it gives the defaults."""
    file = tmp_path / ".env"
    file.write_text(example(settings_of_features()), encoding="utf-8")
    bare.setenv("ENV_FILE", str(file))
    from_file = redacted(load_settings(settings_of_features()))
    bare.setenv("ENV_FILE", "")
    assert from_file == redacted(load_settings(settings_of_features()))


def test_the_example_does_not_depend_on_the_environment(bare: pytest.MonkeyPatch) -> None:
    """It is made from the classes: what happens to be set, or set wrong, on this machine stays out."""
    expected = example(settings_of_features())
    bare.setenv("DATABASE_NAME", "mine")
    bare.setenv("HTTP_WORKERS", "many")
    assert example(settings_of_features()) == expected


def test_secrets_are_fresh_and_only_their_owner_reads_them(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two projects never share a secret, and production accepts what was generated."""
    one, other = tmp_path / "one", tmp_path / "other"
    assert write(one, settings_of_features())
    assert write(other, settings_of_features())
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    generated = {
        variable
        for _, _, fields in documented(settings_of_features())
        for variable, field in fields
        if is_generated(field)
    } | {variable for variable, default, _ in COMPOSE if default == GENERATED}
    assert {"DATABASE_PASSWORD", "CACHE_PASSWORD", "BROKER_PASSWORD", "AUTH_SECRET_KEY", "HEALTH_TOKEN"} <= generated
    first, second = dotenv_values(one), dotenv_values(other)
    values = [file[name] for file in (first, second) for name in generated]
    assert len(set(values)) == len(values)
    assert {name for name in first if first[name] != second[name]} == generated
    bare.setenv("ENV_FILE", str(one))
    bare.setenv("ENVIRONMENT", "production")
    bare.setenv("AI_ALLOW_OFFLINE", "true")
    assert load_settings(settings_of_features()).production


def test_an_existing_file_is_never_touched(tmp_path: Path) -> None:
    """It may hold the only copy of a password."""
    file = tmp_path / ".env"
    file.write_text("MINE=1\n")
    assert not write(file, settings_of_features())
    assert file.read_text() == "MINE=1\n"
    assert list(tmp_path.iterdir()) == [file]


def test_of_many_at_once_one_writes(tmp_path: Path) -> None:
    """Whoever comes second finds the whole file of the first, and nothing is left lying about."""
    file = tmp_path / ".env"

    def once(_: int) -> tuple[bool, dict[str, str]]:
        wrote = write(file, settings_of_features())
        return wrote, variables(file.read_text())

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(once, range(24)))
    assert sum(wrote for wrote, _ in results) == 1
    assert all(seen == results[0][1] and seen["DOMAIN"] for _, seen in results)
    assert list(tmp_path.iterdir()) == [file]
