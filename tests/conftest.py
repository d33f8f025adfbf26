"""What every test of the template stands on."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import baking
import pytest
import stage
from projects import Projects, Tell, projects_in


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a clone would hold it."""
    return stage.stage(tmp_path_factory.mktemp("staged") / "template")


@pytest.fixture
def bake(template: Path, tmp_path: Path) -> Callable[..., Path]:
    """Bake into a fresh folder each time: `bake(example="none")`."""
    count = iter(range(1_000_000))
    return lambda **answers: baking.bake(template, tmp_path / f"bake-{next(count)}", **answers)


@pytest.fixture(scope="session")
def default_project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of the default answers; read it, do not run it."""
    return baking.bake(template, tmp_path_factory.mktemp("default") / "out")


@pytest.fixture(scope="session")
def projects(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Projects:
    """Projects to run, by name: see projects.py."""
    return projects_in(tmp_path_factory.mktemp("projects"), template)


@pytest.fixture(scope="session")
def spacious() -> Iterator[Path]:
    """A folder for bakes by the hundred: in memory where the machine has room there, as making files costs most of a bake."""
    memory = Path("/dev/shm")  # noqa: S108  # the folder made in it is this process's own
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    with tempfile.TemporaryDirectory(prefix="bakes-", dir=memory if roomy else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def combinations(template: Path, spacious: Path) -> list[tuple[dict[str, str], Path]]:
    """Every combination of the answers that drop rooms, baked; read them, do not run them."""
    folder = spacious / "combinations"
    return [
        (answers, baking.bake(template, folder / str(number), **answers))
        for number, answers in enumerate(baking.room_combinations())
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes first: begun last, it would run alone on one core."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Put a row into the table at the end of the run: what was done, with how many combinations, and how."""
    return lambda what, count, how: record_property("combinations", [what, count, how])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many combinations of answers there are, and what each has gone through."""
    rows = [
        row
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        for name, row in report.user_properties
        if name == "combinations"
    ]
    if not rows:
        return
    terminalreporter.section(f"{len(baking.room_combinations())} combinations of answers that make sense")
    width = max(len(row[0]) for row in rows)
    for what, count, how in sorted(rows):
        terminalreporter.write_line(f"{what:<{width}}  {count:>5}  {how}")


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Write a line to the terminal at once: who waits for minutes wants to see what for."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    name = request.node.name

    def write(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"  {name}: {line}", file=sys.stderr, flush=True)

    return write
