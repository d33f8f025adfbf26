"""Where settings come from: the environment, files that are mounted, AWS Secrets Manager, the env file; in that order."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import Field

from app.core.settings import FeatureSettings, Settings, SettingsError, load_settings, read_variables, unknown_variables
from app.core.settings.sources import MAX_SECRET_BYTES
from tests.core.test_cli import cli
from tests.core.test_settings import Pets, faults

Mounted = Callable[[str, bytes], str]


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    """Mounts a secret; returns its path."""

    def mount(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return mount


@pytest.fixture(scope="module")
def secrets_manager() -> Iterator[str]:
    """A Secrets Manager on this machine; its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(secrets_manager: str, bare: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Keeps a text as the secret that SECRETS_AWS_ID names."""
    import boto3

    bare.setenv("AWS_ACCESS_KEY_ID", "somebody")
    bare.setenv("AWS_SECRET_ACCESS_KEY", "something")
    bare.setenv("SECRETS_AWS_REGION", "eu-central-1")
    bare.setenv("SECRETS_AWS_ENDPOINT_URL", secrets_manager)
    bare.setenv("SECRETS_AWS_ID", "service/settings")

    def keep(text: str) -> None:
        client = boto3.client("secretsmanager", region_name="eu-central-1", endpoint_url=secrets_manager)
        client.delete_secret(SecretId="service/settings", ForceDeleteWithoutRecovery=True)
        client.create_secret(Name="service/settings", SecretString=text)

    return keep


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_a_secret_may_be_a_file(bare: pytest.MonkeyPatch, mounted: Mounted, ending: bytes) -> None:
    """Of core, of a feature, a whole address; the newline at the end is the editor's, a blank is the secret's."""
    bare.setenv("DATABASE_PASSWORD_FILE", mounted("password", b" from a file " + ending))
    bare.setenv("CACHE_URL_FILE", mounted("url", b"redis://cache:1/0" + ending))
    bare.setenv("PETS_TOKEN_FILE", mounted("token", b"open" + ending))
    settings = load_settings([Pets])
    assert settings.database.password.get_secret_value() == " from a file "
    assert settings.cache.address() == "redis://cache:1/0"
    assert settings.of(Pets).token.get_secret_value() == "open"


def test_only_a_secret_may_be_a_file(bare: pytest.MonkeyPatch, mounted: Mounted) -> None:
    """Anything else is said where it is read."""
    bare.setenv("DATABASE_USER_FILE", mounted("user", b"somebody"))
    assert load_settings().database.user == "app"
    assert unknown_variables(read_variables([]), [], []) == [
        "DATABASE_USER_FILE: there is no such setting; did you mean DATABASE_USER?"
    ]


def test_a_file_and_a_value_are_one_too_many(bare: pytest.MonkeyPatch, mounted: Mounted) -> None:
    """Which of the two is old, nobody could tell."""
    bare.setenv("DATABASE_PASSWORD", "hunter2")
    bare.setenv("DATABASE_PASSWORD_FILE", mounted("password", b"hunter3"))
    assert faults() == ["DATABASE_PASSWORD: set as well as DATABASE_PASSWORD_FILE; only one of them may be"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"\n", "empty"),
        (b"hunter2\xff", "not text"),
        (b"hunter2" * MAX_SECRET_BYTES, "too large for a secret"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    bare: pytest.MonkeyPatch, tmp_path: Path, mounted: Mounted, content: bytes | None, reason: str
) -> None:
    """By its variable and its path, once, and never with what is in it."""
    path = str(tmp_path / "password") if content is None else mounted("password", content)
    bare.setenv("DATABASE_PASSWORD_FILE", path)
    bare.setenv("ENVIRONMENT", "production")
    concerned = [fault for fault in faults() if fault.startswith("DATABASE_PASSWORD")]
    assert concerned == [f"DATABASE_PASSWORD_FILE: {path}: {reason}"]


def test_which_source_wins(
    bare: pytest.MonkeyPatch, tmp_path: Path, mounted: Mounted, aws: Callable[[str], None]
) -> None:
    """The environment, a file that it names, AWS, a file that the env file names, the env file; empty is unset."""
    names = ("DATABASE_PASSWORD", "CACHE_PASSWORD", "BROKER_PASSWORD", "HEALTH_TOKEN", "STORAGE_SECRET_KEY")
    aws(json.dumps(dict.fromkeys(names[:3], "aws") | {"DATABASE_PORT": 6000, "HEALTH_TOKEN": "", "PETS_MAX_LEGS": "9"}))
    named = mounted("named", b"file named in the env file\n")
    (tmp_path / "env").write_text(
        f"HEALTH_TOKEN_FILE={named}\nDATABASE_PORT=7000\nPETS_MAX_LEGS=7\n"
        + "".join(f"{name}=env file\n" for name in (*names[:3], names[4]))
    )
    bare.setenv("ENV_FILE", str(tmp_path / "env"))
    bare.setenv("DATABASE_PASSWORD", "environment")
    bare.setenv("CACHE_PASSWORD", "")
    bare.setenv("CACHE_PASSWORD_FILE", mounted("file", b"file"))
    settings = load_settings([Pets])
    assert settings.database.password.get_secret_value() == "environment"
    assert settings.cache.password.get_secret_value() == "file"
    assert settings.broker.password.get_secret_value() == "aws"
    assert settings.database.port == 6000
    assert settings.of(Pets).max_legs == 9
    assert settings.health.token.get_secret_value() == "file named in the env file"
    assert settings.storage.secret_key.get_secret_value() == "env file"


@pytest.mark.parametrize("text", ["hunter2", '["hunter2"]'])
def test_a_secret_of_aws_must_be_an_object(aws: Callable[[str], None], text: str) -> None:
    """What is in it instead is not shown."""
    aws(text)
    assert faults() == ["SECRETS_AWS_ID: the secret's text is not a JSON object of variables"]


def test_a_secret_that_aws_does_not_give_is_named(bare: pytest.MonkeyPatch, aws: Callable[[str], None]) -> None:
    """With AWS's own reason, which is a matter of rights most of the time."""
    bare.setenv("SECRETS_AWS_ID", "service/other")
    (fault,) = faults()
    assert fault.startswith("SECRETS_AWS_ID: AWS does not give it:")
    assert "ResourceNotFoundException" in fault


def test_aws_is_away(bare: pytest.MonkeyPatch, aws: Callable[[str], None], dead_port: int) -> None:
    """A fault like every other, in seconds; and other users of the AWS library notice nothing of our deadlines."""
    import boto3

    bare.setenv("SECRETS_AWS_ENDPOINT_URL", f"http://127.0.0.1:{dead_port}")
    before = boto3.DEFAULT_SESSION
    (fault,) = faults()
    assert "Could not connect" in fault
    assert boto3.DEFAULT_SESSION is before


def test_a_value_that_should_be_json_is_named(bare: pytest.MonkeyPatch) -> None:
    """By its variable, also among others of its group, and without the value."""

    class Prices(FeatureSettings):
        """Prices of the tests."""

        prefix = "PRICES_"

        euros: dict[str, float] = Field(default_factory=dict)
        pounds: dict[str, float] = Field(default_factory=dict)

    bare.setenv("PRICES_EUROS", '{"a": 1}')
    bare.setenv("PRICES_POUNDS", "hunter2")
    assert faults(Prices) == ["PRICES_POUNDS: not valid JSON"]


def test_typing_errors_are_noticed(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wherever they are; other programs' variables and what belongs to compose are none."""
    (tmp_path / "env").write_text("PETS_MAXLEGS=4\nUNRELATED=1\n")
    bare.setenv("ENV_FILE", str(tmp_path / "env"))
    for name in ("DATABASE_POOLSIZE", "HTTP_PROXY", "HTTP_PORT", "AUTH_WHATEVER", "CACHE", "DATABASE_PASSWORD_FILE"):
        bare.setenv(name, "1")
    assert unknown_variables(read_variables([Pets]), [Pets], ["HTTP_PORT"]) == [
        "AUTH_WHATEVER: there is no such setting",
        "DATABASE_POOLSIZE: there is no such setting; did you mean DATABASE_POOL_SIZE?",
        "PETS_MAXLEGS: there is no such setting; did you mean PETS_MAX_LEGS?",
    ]


def test_settings_check_for_another_environment(environment_without_settings: dict[str, str], tmp_path: Path) -> None:
    """What production would refuse is said on a developer's machine; typing errors are warnings; no value is shown."""
    (tmp_path / "password").write_text("hunter2hunter2")
    environment = {
        **environment_without_settings,
        "DATABASE_PASSWORD_FILE": str(tmp_path / "password"),
        "CACHE_PASSWORD": "hunter2",
        "DATABASE_POOLSIZE": "hunter2",
        "HTTP_PORT": "80",
    }
    here = cli(environment, "settings", "check")
    assert (here.returncode, here.stdout) == (0, "settings: no faults\n")
    assert here.stderr == "warning: DATABASE_POOLSIZE: there is no such setting; did you mean DATABASE_POOL_SIZE?\n"
    there = cli(environment, "settings", "check", "--environment", "production")
    assert there.returncode == 1
    for variable in ("DATABASE_PASSWORD: shorter", "CACHE_PASSWORD: shorter", "AUTH_SECRET_KEY: missing"):
        assert f"  - {variable}" in there.stderr
    assert "hunter2" not in there.stdout + there.stderr
    assert "Traceback" not in there.stderr


def test_every_field_can_be_a_fault_and_a_default(bare: pytest.MonkeyPatch) -> None:
    """A refused value gives way to the default, so that what else is wrong in its group is said as well."""
    bare.setenv("DATABASE_PORT", "x")
    bare.setenv("DATABASE_POOL_SIZE", "0")
    bare.setenv("PETS_MAX_LEGS", "-1")
    with pytest.raises(SettingsError) as caught:
        load_settings([Pets])
    assert {fault.split(":")[0] for fault in caught.value.faults} == {
        "DATABASE_PORT",
        "DATABASE_POOL_SIZE",
        "PETS_MAX_LEGS",
    }
    assert Settings().database.port == 5432
