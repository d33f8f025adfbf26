"""Commands of the service, several in one process of their own: most of what one costs is its start."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.core.project import ROOT

_DRIVER = """
import json, os, sys, traceback
from typer.testing import CliRunner
from app.cli import cli
for changed, arguments in json.loads(sys.argv[1]):
    os.environ.update(changed)
    done = CliRunner().invoke(cli, arguments, prog_name="python -m app.cli")
    crashed = done.exception and not isinstance(done.exception, SystemExit)
    trace = "".join(traceback.format_exception(*done.exc_info)) if crashed else ""
    print(json.dumps([done.exit_code, done.stdout, done.stderr + trace]), flush=True)
"""


@dataclass(frozen=True)
class Command:
    """A command line, and what changes in the environment from it on."""

    arguments: list[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Done:
    """What came of it."""

    returncode: int
    stdout: str
    stderr: str


def command(*arguments: str, **environment: str) -> Command:
    """As one would type it."""
    return Command(list(arguments), environment)


def each(environment: Mapping[str, str], *commands: Command, cwd: Path = ROOT) -> list[Done]:
    """Run them one after the other, whatever becomes of those before."""
    todo = json.dumps([[dict(one.environment), one.arguments] for one in commands])
    run = subprocess.run(
        [sys.executable, "-c", _DRIVER, todo],
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = run.stdout.splitlines()
    assert len(lines) == len(commands), run.stdout + run.stderr
    return [Done(*json.loads(line)) for line in lines]
