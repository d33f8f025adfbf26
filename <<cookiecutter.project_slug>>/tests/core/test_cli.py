"""The command line: chores say in one line what is wrong, and processes come and go without a trace."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.core.conftest import RunService

from app.core.project import ROOT
from tests.core.asking import answers
from tests.core.commands import command, each


def cli(environment: dict[str, str], *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `python -m app.cli`."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        check=False,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_settings_init_writes_once(project_copy: Path, environment_without_settings: dict[str, str]) -> None:
    """The first setup makes .env with secrets, the second leaves it, and the service's own check is content with it."""
    environment = {**environment_without_settings}
    del environment["ENV_FILE"]
    first = cli(environment, "settings", "init", cwd=project_copy)
    assert (first.returncode, first.stdout) == (0, "setup: wrote .env with fresh secrets\n")
    written = (project_copy / ".env").read_text()
    second = cli(environment, "settings", "init", cwd=project_copy)
    assert (second.returncode, second.stdout) == (0, "setup: .env is there already; left as it is\n")
    assert (project_copy / ".env").read_text() == written
    production = {**environment, "ENVIRONMENT": "production", "AI_ALLOW_OFFLINE": "true"}
    # A line that is empty in the file does not hide what the environment says, nor the other way round.
    checked = cli(production, "settings", "check", cwd=project_copy)
    assert (checked.returncode, checked.stdout) == (0, "settings: no faults\n"), checked.stderr


def test_settings_check_says_every_fault(environment_without_settings: dict[str, str]) -> None:
    """Exit code 1, and a line for each fault."""
    result = cli(
        {**environment_without_settings, "ENVIRONMENT": "production", "DATABASE_PORT": "x"}, "settings", "check"
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for variable in ("DATABASE_PORT", "DATABASE_PASSWORD", "AUTH_SECRET_KEY"):
        assert f"  - {variable}: " in result.stderr


def test_settings_example_check_notices_a_difference(
    project_copy: Path, environment_without_settings: dict[str, str]
) -> None:
    """The check can fail: a changed file gives exit code 1, the right one 0."""
    assert cli(environment_without_settings, "settings", "example", "--check", cwd=project_copy).returncode == 0
    (project_copy / ".env.example").write_text("OLD=1\n")
    result = cli(environment_without_settings, "settings", "example", "--check", cwd=project_copy)
    assert result.returncode == 1
    assert "make generate" in result.stderr


def test_no_process_starts_with_faults(environment_without_settings: dict[str, str]) -> None:
    """Each reads the settings before anything else and refuses with the list, not with a traceback."""
    names = ("serve", "worker", "beat", "migrate", "init-storage")
    environment = {**environment_without_settings, "ENVIRONMENT": "production"}
    for name, result in zip(names, each(environment, *map(command, names)), strict=True):
        assert result.returncode == 1, name
        assert "AUTH_SECRET_KEY: missing" in result.stderr, name
        assert "Traceback" not in result.stderr, name


def test_a_neighbour_that_is_away_is_named(environment_without_settings: dict[str, str], dead_port: int) -> None:
    """A chore whose neighbour is away ends with exit code 1 and one message, which holds no password."""
    environment = {
        **environment_without_settings,
        "LOG_LEVEL": "ERROR",
        "DATABASE_URL": f"postgresql://app:hunter2@127.0.0.1:{dead_port}",
        "STORAGE_ENDPOINT_URL": f"http://127.0.0.1:{dead_port}",
        "STORAGE_ACCESS_KEY": "somebody",
        "STORAGE_SECRET_KEY": "hunter2hunter2",
    }
    for result in each(environment, command("migrate"), command("init-storage")):
        output = result.stdout + result.stderr
        assert result.returncode == 1
        assert "Traceback" not in output
        assert str(dead_port) in output
        assert "hunter2" not in output


def test_openapi_needs_no_environment(environment_without_settings: dict[str, str]) -> None:
    """The document is the same everywhere, whatever is set, and is all that is printed."""
    plain, other = each(
        environment_without_settings,
        command("openapi"),
        command("openapi", ENVIRONMENT="production", HTTP_WORKERS="x"),
    )
    assert plain.returncode == other.returncode == 0, other.stderr
    assert json.loads(plain.stdout) == json.loads(other.stdout)
    assert "/health" in json.loads(plain.stdout)["paths"]


def test_migration_wants_a_known_feature(environment: dict[str, str]) -> None:
    """A typing error does not make a folder."""
    result = cli(environment, "migration", "--feature", "acounts", "--message", "x")
    assert result.returncode == 1
    assert "usage: make migration feature=core|" in result.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_stops_when_asked_and_leaves_nothing(
    run_service: "RunService", free_port: int, tmp_path: Path, until: Callable[..., Any], workers: int
) -> None:
    """SIGTERM: the process ends by itself, soon, and its folder of metrics goes with it."""
    service = run_service("serve", "--port", str(free_port), "--workers", str(workers), TMPDIR=str(tmp_path))
    until(lambda: answers(f"http://127.0.0.1:{free_port}/health"))
    assert list(tmp_path.glob("metrics-*"))
    began = time.monotonic()
    service.process.terminate()
    assert service.process.wait(20) == 0
    assert time.monotonic() - began < 10
    assert not list(tmp_path.glob("metrics-*"))
    assert "Traceback" not in service.log.read_text()


@pytest.mark.parametrize(
    "command",
    [("migrate",), ("migration", "--feature", "core", "--message", "x")],
    ids=lambda command: command[0],
)
def test_without_a_database_one_line_says_so(environment: dict[str, str], command: tuple[str, ...]) -> None:
    """The first thing that somebody new meets: the stack does not run yet."""
    away = {name: value for name, value in environment.items() if name != "DATABASE_URL"}
    result = cli({**away, "DATABASE_HOST": "127.0.0.1", "DATABASE_PORT": "1", "ENVIRONMENT": "development"}, *command)
    assert result.returncode == 1
    assert f"{command[0]}: the database does not let us in" in result.stderr
    assert "is `make dev` running" in result.stderr
    assert "Traceback" not in result.stderr
