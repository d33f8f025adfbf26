"""Settings: what the environment says reaches the code, and what is wrong in it is said all at once."""

import base64
import os
from pathlib import Path

import orjson
import pytest
from pydantic import Field, SecretStr

from app.core.logging import json_line
from app.core.masking import masked
from app.core.project import project
from app.core.settings import (
    Environment,
    FeatureSettings,
    Settings,
    SettingsError,
    load_settings,
    redacted,
    secret,
    secret_faults,
)

STRONG = "d0c5" * 4 + "9a1b7e3f6c2488aa"


class Pets(FeatureSettings):
    """Pets of the tests."""

    prefix = "PETS_"

    max_legs: int = Field(default=4, ge=0, description="Most legs.")
    token: SecretStr = secret("Opens the gate.")


class Meaning(FeatureSettings):
    """A feature that searches by meaning."""

    prefix = "MEANING_"
    compares_meaning = True


def faults(*groups: type[FeatureSettings]) -> list[str]:
    """What is wrong with the environment."""
    with pytest.raises(SettingsError) as caught:
        load_settings(groups)
    return list(caught.value.faults)


@pytest.fixture
def production(bare: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that production accepts."""
    values = {
        "ENVIRONMENT": "production",
        "DATABASE_PASSWORD": STRONG,
        "CACHE_PASSWORD": STRONG,
        "BROKER_PASSWORD": STRONG,
        "AUTH_SECRET_KEY": STRONG,
        "ENCRYPTION_KEYS": f"one:{base64.b64encode(bytes(32)).decode()}",
        "AI_EMBEDDING_PROVIDER": "openai",
        "AI_OPENAI_API_KEY": "sk-" + STRONG,
        "AI_ANSWER_PROVIDER": "claude",
        "AI_CLAUDE_API_KEY": "sk-" + STRONG,
    }
    for name, value in values.items():
        bare.setenv(name, value)
    return bare


def test_defaults_need_no_environment(bare: pytest.MonkeyPatch) -> None:
    """A developer's machine needs no variable at all."""
    settings = load_settings([Pets])
    assert settings.environment is Environment.DEVELOPMENT
    assert settings.database.dsn() == "postgresql://app:@127.0.0.1:5432/app"
    assert settings.of(Pets).max_legs == 4


def test_a_variable_is_its_group_and_field(bare: pytest.MonkeyPatch) -> None:
    """GROUP_FIELD, also where the field's own name holds an underscore, and for a feature's group."""
    bare.setenv("DATABASE_POOL_SIZE", "17")
    bare.setenv("BACKUP_S3_ENDPOINT_URL", "https://backup.example.com/")
    bare.setenv("PETS_MAX_LEGS", "8")
    bare.setenv("HTTP_DOCS", "false")
    settings = load_settings([Pets])
    assert settings.database.pool_size == 17
    assert settings.backup.s3_endpoint_url == "https://backup.example.com"
    assert settings.of(Pets).max_legs == 8
    assert settings.docs_enabled is False


def test_every_documented_variable_is_read(bare: pytest.MonkeyPatch) -> None:
    """No variable of `.env.example` is a dead letter: a nonsense value of each typed one is refused by its name."""
    from app.core.settings import documented
    from app.features import settings_of_features

    features = settings_of_features()
    typed = [
        variable
        for _, _, fields in documented(features)
        for variable, field in fields
        if field.annotation in (int, float, bool) or variable in ("ENVIRONMENT", "LOG_FORMAT", "AI_EMBEDDING_PROVIDER")
    ]
    assert len(typed) > 15
    for variable in typed:
        bare.setenv(variable, "nonsense")
    named = {fault.split(":")[0] for fault in faults(*features)}
    assert set(typed) <= named


@pytest.mark.parametrize("given", ["a.example.com,b.example.com", " a.example.com , ,b.example.com,"])
def test_lists_are_separated_by_commas(bare: pytest.MonkeyPatch, given: str) -> None:
    """Blanks and empty parts do not count."""
    bare.setenv("HTTP_ALLOWED_HOSTS", given)
    assert load_settings().allowed_hosts == ("a.example.com", "b.example.com")


def test_empty_means_unset(bare: pytest.MonkeyPatch) -> None:
    """As compose hands on `NAME=` for what nobody has set."""
    for variable in (
        "HTTP_ALLOWED_HOSTS",
        "HTTP_DOCS",
        "DATABASE_PORT",
        "ENVIRONMENT",
        "BACKUP_PG_BIN",
        "PETS_MAX_LEGS",
    ):
        bare.setenv(variable, "")
    settings = load_settings([Pets])
    assert settings.allowed_hosts == ("localhost", "127.0.0.1", "[::1]", project().domain)
    assert settings.docs_enabled is True
    assert settings.database.port == 5432
    assert settings.backup.pg_bin is None
    assert settings.of(Pets).max_legs == 4


def test_the_environment_wins_over_the_file(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ENV_FILE names a file for what the environment leaves out; empty, no file is read."""
    file = tmp_path / "service.env"
    file.write_text("DATABASE_NAME=from_file\nDATABASE_USER=from_file\nPETS_MAX_LEGS=6\n")
    bare.setenv("ENV_FILE", str(file))
    bare.setenv("DATABASE_USER", "from_environment")
    settings = load_settings([Pets])
    assert (settings.database.name, settings.database.user) == ("from_file", "from_environment")
    assert settings.of(Pets).max_legs == 6
    bare.setenv("ENV_FILE", "")
    assert load_settings([Pets]).database.name == "app"


@pytest.mark.parametrize(
    "name", ["CACHE", "HEALTH", "HTTP", "STORAGE", "LOG", "FEATURES", "ENVIRONMENT_NAME", "HTTP_PROXY"]
)
def test_a_stranger_with_the_name_of_a_group_is_no_trap(bare: pytest.MonkeyPatch, name: str) -> None:
    """Other programs set variables too, and one of them may be called like a group: the service starts all the same."""
    bare.setenv(name, "/var/cache")
    assert load_settings([Pets]).cache.port == 6379


def test_addresses_win_over_parts_and_secrets_are_quoted(bare: pytest.MonkeyPatch) -> None:
    """A managed service's whole address is taken as it is; a password with any character fits into one of our own."""
    bare.setenv("DATABASE_PASSWORD", "a@b/c:d%")
    bare.setenv("CACHE_PASSWORD", "a@b/c:d%")
    settings = load_settings()
    assert settings.database.dsn() == "postgresql://app:a%40b%2Fc%3Ad%25@127.0.0.1:5432/app"
    assert settings.cache.address() == "redis://:a%40b%2Fc%3Ad%25@127.0.0.1:6379/0"
    bare.setenv("DATABASE_URL", "postgresql://u:p@db.example.com/x?sslmode=verify-full")
    bare.setenv("CACHE_URL", "rediss://:p@cache.example.com:6380/1")
    settings = load_settings()
    assert settings.database.dsn() == "postgresql://u:p@db.example.com/x?sslmode=verify-full"
    assert settings.cache.address() == "rediss://:p@cache.example.com:6380/1?ssl_cert_reqs=required"


def test_a_certificate_is_checked_unless_somebody_says_otherwise(bare: pytest.MonkeyPatch) -> None:
    """Celery, told nothing, would believe whoever answers. What the address itself says wins."""
    bare.setenv("BROKER_URL", "rediss://:p@broker.example.com:6380")
    assert load_settings().broker.address() == "rediss://:p@broker.example.com:6380?ssl_cert_reqs=required"
    bare.setenv("BROKER_TLS_VERIFY", "off")
    assert load_settings().broker.address() == "rediss://:p@broker.example.com:6380?ssl_cert_reqs=none"
    bare.setenv("BROKER_URL", "rediss://broker/0?db=1&ssl_cert_reqs=optional")
    assert load_settings().broker.address() == "rediss://broker/0?db=1&ssl_cert_reqs=optional"
    bare.setenv("BROKER_URL", "redis://broker/0")
    assert load_settings().broker.address() == "redis://broker/0"


def test_faults_are_said_all_at_once(bare: pytest.MonkeyPatch) -> None:
    """Values that cannot be read, in every group, and what production misses besides, in one answer."""
    bare.setenv("ENVIRONMENT", "production")
    bare.setenv("DATABASE_PORT", "five")
    bare.setenv("HTTP_WORKERS", "0")
    bare.setenv("LOG_LEVEL", "loud")
    bare.setenv("PETS_MAX_LEGS", "-1")
    bare.setenv("DATABASE_PASSWORD", "short")
    bare.setenv("CACHE_PASSWORD", "this-is-the-default-password")
    bare.setenv("BROKER_PASSWORD", "a" * 40)
    bare.setenv("HTTP_CORS_ORIGINS", "*")
    bare.setenv("HTTP_ALLOWED_HOSTS", "*")
    bare.setenv("STORAGE_ACCESS_KEY", "minioadmin")
    bare.setenv("STORAGE_SECRET_KEY", "minioadmin")
    found = {fault.split(":")[0]: fault for fault in faults(Pets, Meaning)}
    assert set(found) >= {
        "DATABASE_PORT",
        "HTTP_WORKERS",
        "LOG_LEVEL",
        "PETS_MAX_LEGS",
        "DATABASE_PASSWORD",
        "CACHE_PASSWORD",
        "BROKER_PASSWORD",
        "AUTH_SECRET_KEY",
        "HTTP_CORS_ORIGINS",
        "HTTP_ALLOWED_HOSTS",
        "STORAGE_SECRET_KEY",
        "AI_EMBEDDING_PROVIDER",
        "AI_ANSWER_PROVIDER",
    }
    assert "shorter" in found["DATABASE_PASSWORD"]
    assert "default" in found["CACHE_PASSWORD"]
    assert "guessed" in found["BROKER_PASSWORD"]
    assert "missing" in found["AUTH_SECRET_KEY"]
    assert all(fault != "short" for fault in found.values())


def test_a_fault_does_not_show_a_secret(production: pytest.MonkeyPatch) -> None:
    """The message goes to logs and screens."""
    production.setenv("DATABASE_PASSWORD", "hunter2")
    production.setenv("AUTH_SECRET_KEY", "my-insecure-hunter3-value-0123")
    text = "\n".join(faults())
    assert "DATABASE_PASSWORD" in text
    assert "hunter" not in text


def test_an_unknown_environment_is_judged_as_production(bare: pytest.MonkeyPatch) -> None:
    """A typing error must not open the doors of development."""
    bare.setenv("ENVIRONMENT", "prodution")
    named = {fault.split(":")[0] for fault in faults()}
    assert {"ENVIRONMENT", "AUTH_SECRET_KEY"} <= named


def test_production_accepts_what_is_right(production: pytest.MonkeyPatch) -> None:
    """The negative of all refusals: with strong secrets it starts, and is strict."""
    settings = load_settings()
    assert settings.production
    assert settings.log_level == "WARNING"
    assert not settings.docs_enabled


def test_a_managed_address_replaces_the_password(production: pytest.MonkeyPatch) -> None:
    """With DATABASE_URL nobody asks for DATABASE_PASSWORD; the other passwords are still asked for."""
    production.delenv("DATABASE_PASSWORD")
    production.delenv("CACHE_PASSWORD")
    assert {fault.split(":")[0] for fault in faults()} == {"DATABASE_PASSWORD", "CACHE_PASSWORD"}
    production.setenv("DATABASE_URL", "postgresql://u:v8Kq2mZt5wRb@db.example.com/x")
    assert {fault.split(":")[0] for fault in faults()} == {"CACHE_PASSWORD"}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://:hunter2@cache/0", "its password is shorter than 12 characters"),
        ("redis://:my-secret-hunter2@cache/0", "its password is a default or easily guessed value"),
        ("redis://[cache/0", "not an address"),
    ],
)
def test_the_password_in_an_address_is_judged_too(production: pytest.MonkeyPatch, url: str, reason: str) -> None:
    """And an address without one is let in by other means: a client certificate, an instance's role."""
    production.setenv("BROKER_URL", url)
    (fault,) = faults()
    assert fault.startswith(f"BROKER_URL: {reason}")
    assert "hunter2" not in fault
    production.setenv("BROKER_URL", "rediss://broker/0")
    assert load_settings().production


def test_production_writes_json(production: pytest.MonkeyPatch) -> None:
    """What is made for a terminal cannot be collected."""
    production.setenv("LOG_FORMAT", "console")
    assert [fault.split(":")[0] for fault in faults()] == ["LOG_FORMAT"]


def test_a_features_secret_is_held_to_the_same_rules(production: pytest.MonkeyPatch) -> None:
    """A feature that needs a secret gets it checked without a line in core."""
    assert faults(Pets) == ["PETS_TOKEN: missing; make one: openssl rand -hex 32"]
    production.setenv("PETS_TOKEN", STRONG)
    assert load_settings([Pets]).of(Pets).token.get_secret_value() == STRONG


def test_development_and_staging_are_lenient(bare: pytest.MonkeyPatch) -> None:
    """Weak secrets are nobody's business on a developer's machine."""
    bare.setenv("DATABASE_PASSWORD", "postgres")
    bare.setenv("HTTP_ALLOWED_HOSTS", "*")
    assert load_settings().log_level == "DEBUG"
    bare.setenv("ENVIRONMENT", "staging")
    assert load_settings().log_level == "INFO"


@pytest.mark.parametrize(
    "weak", ["changeme-changeme-changeme-1", "Password-Password-Password", "abababababababababababababab"]
)
def test_weak_secrets_are_known(weak: str) -> None:
    """Long enough is not enough."""
    assert "guessed" in secret_faults("X", SecretStr(weak))[0]


def test_no_secret_is_in_what_is_logged(production: pytest.MonkeyPatch) -> None:
    """The start's log shows every setting, and of a secret only that it is there."""
    production.setenv("DATABASE_URL", "postgresql://u:hunter2-9fK3mZq7@db.example.com/x")
    production.setenv("SENTRY_DSN", "https://hunter3@sentry.example.com/1")
    production.setenv("DATABASE_POOL_SIZE", "17")
    shown = redacted(load_settings())
    text = json_line(masked(shown)).decode()
    assert shown["database_pool_size"] == 17
    assert shown["backup_s3_secret_key"] == ""
    for value in (STRONG, "hunter2", "hunter3"):
        assert value not in text
    assert orjson.loads(text)["auth_secret_key"]


def test_settings_do_not_change(bare: pytest.MonkeyPatch) -> None:
    """What a process was started with is what it is."""
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.environment = Environment.PRODUCTION  # type: ignore[misc]  # that it is refused is the point


def test_constructing_reads_only_arguments(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`load_settings` alone looks for an env file."""
    (tmp_path / ".env").write_text("DATABASE_NAME=from_file\n")
    bare.chdir(tmp_path)
    assert os.environ["ENV_FILE"] == ""
    assert Settings().database.name == "app"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AUTH_ALGORITHM": "EdDSA"}, "AUTH_PRIVATE_KEY: missing; make one: openssl genpkey -algorithm ed25519"),
        ({"AUTH_ALGORITHM": "RS256"}, "AUTH_PRIVATE_KEY: missing; make one: openssl genpkey -algorithm rsa"),
        ({"AUTH_FURTHER_SECRET_KEYS": f"{STRONG}, hunter2"}, "AUTH_FURTHER_SECRET_KEYS: shorter"),
        ({"AUTH_SECRET_KEY": "", "AUTH_PUBLIC_KEYS": '{"keys": []}'}, "AUTH_ISSUER: missing"),
        ({"AUTH_PUBLIC_KEYS": "no key"}, "neither PEM nor a JWKS document"),
    ],
)
def test_keys_that_production_refuses(production: pytest.MonkeyPatch, variables: dict[str, str], said: str) -> None:
    """Nothing to sign with, a weak key left over from a rotation, keys of nobody knows whom."""
    for name, value in variables.items():
        production.setenv(name, value)
    (fault,) = faults()
    assert said in fault
    assert "hunter2" not in fault


def test_production_without_a_key_of_its_own(production: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where an outside provider signs people in, its public keys are enough; also as a file."""
    document = tmp_path / "jwks.json"
    document.write_text('{"keys": []}\n')
    production.setenv("AUTH_SECRET_KEY", "")
    production.setenv("AUTH_PUBLIC_KEYS_FILE", str(document))
    production.setenv("AUTH_ISSUER", "https://login.example.com/")
    assert load_settings().auth.outside
