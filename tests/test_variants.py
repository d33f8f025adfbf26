"""Every combination of answers is rendered, and every file of it is what its name says."""

from __future__ import annotations

import functools
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import baking
import pytest
import variants
import yaml
from baking import CHOICES, ROOT, files_of, name_of, room_combinations, text_files_of
from formats import parse
from projects import Tell
from stage import TEMPLATE_FOLDER

from template_extensions import PYTHON_VERSIONS

Combinations = list[tuple[dict[str, str], Path]]
TOOLS = Path(sys.executable).parent
# `${NAME:?reason}`: Compose stops without it.
REQUIRED = re.compile(r"\$\{([A-Z][A-Z0-9_]*):?\?")


@functools.cache
def _parsed(path: str, text: str) -> None:
    parse(path, text)


@pytest.mark.parametrize("python_version", PYTHON_VERSIONS)
def test_every_combination_is_rendered_and_parsed(
    template: Path, spacious: Path, python_version: str, tell: Tell
) -> None:
    """Each of them, licences and Python versions included; a file that two bakes share is parsed once."""
    count = 0
    for answers in itertools.product(room_combinations(), CHOICES["license"]):
        chosen = {**answers[0], "license": answers[1], "python_version": python_version}
        project = baking.bake(template, spacious / "rendered" / str(count), **chosen)
        for path, text in text_files_of(project).items():
            _parsed(path, text)
        assert f'requires-python = ">={python_version}"' in (project / "pyproject.toml").read_text()
        shutil.rmtree(project)
        count += 1
    assert count == len(room_combinations()) * len(CHOICES["license"])
    tell(f"rendered and parsed: Python {python_version}", count, f"with each of {len(CHOICES['license'])} licences")


def _run(*command: str | Path, cwd: Path) -> None:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    assert result.returncode == 0, f"{command[0]}: {result.stdout[-3000:]}{result.stderr[-3000:]}"


def test_every_combination_is_formatted_and_linted(combinations: Combinations, tell: Tell) -> None:
    """By the project's own rules: imports that a dropped room leaves unused would show here."""
    for _, project in combinations:
        _run(TOOLS / "ruff", "format", "--no-cache", "--check", "--quiet", ".", cwd=project)
        _run(TOOLS / "ruff", "check", "--no-cache", "--quiet", ".", cwd=project)
    tell("checked: format, lint", len(combinations), "each by itself")


def compose_files(project: Path, environment: str) -> list[str]:
    """The files that `make up ENV=…` joins, in its order."""
    rooms = sorted(str(path.relative_to(project)) for path in project.glob("ops/compose/rooms/*.yaml"))
    return ["compose.yaml", *rooms, f"ops/compose/{environment}.yaml"]


@pytest.mark.parametrize("environment", ["dev", "stage", "prod"])
def test_every_combination_is_a_valid_compose_project(combinations: Combinations, environment: str) -> None:
    """As Compose itself reads it, without an engine; every variable that it asks for is in .env.example."""
    for answers, project in combinations:
        if environment == "prod" and answers["deploy"] != "compose":
            continue  # it runs elsewhere
        names = compose_files(project, environment)
        asked = {match for name in names for match in REQUIRED.findall((project / name).read_text())}
        example = (project / ".env.example").read_text()
        assert asked <= set(re.findall(r"(?m)^([A-Z][A-Z0-9_]*)=", example)), name_of(answers)
        env = project / ".env"
        for name in asked:
            example = re.sub(rf"(?m)^{name}=$", f"{name}=placeholder", example)
        env.write_text(example)
        files = [part for name in names for part in ("--file", name)]
        try:
            _run(TOOLS / "docker-compose", *files, "config", "--quiet", cwd=project)
        except AssertionError as error:
            raise AssertionError(f"{name_of(answers)}: {error}") from error
        finally:
            env.unlink()


def test_every_combination_has_valid_workflows(combinations: Combinations) -> None:
    """actionlint and zizmor find nothing; a workflow that two bakes share is looked at once."""
    seen: set[bytes] = set()
    for _, project in combinations:
        workflows = sorted((project / ".github" / "workflows").glob("*.yml"))
        assert workflows
        fresh = [path for path in workflows if path.read_bytes() not in seen]
        seen.update(path.read_bytes() for path in fresh)
        if fresh:
            _run(TOOLS / "actionlint", *fresh, cwd=project)
            _run(TOOLS / "zizmor", "--offline", "--quiet", *fresh, cwd=project)


@pytest.mark.parametrize("rows", [variants.every(), variants.on_every_python()], ids=["here", "in the workflow"])
def test_a_few_variants_make_every_two_answers_meet(rows: list[variants.Answers]) -> None:
    """All that can meet at all do, in combinations that make sense, and in fewer of them than there are."""
    few = variants.pairwise(rows)
    assert set(few) <= set(rows)
    assert len(few) == len(set(few)) < len(rows)
    for row in rows:
        for pair in itertools.combinations(row, 2):
            assert any(set(pair) <= set(chosen) for chosen in few), pair


def test_the_matrix_of_the_workflow_can_be_run() -> None:
    """GitHub takes 256 rows; each answers every question that drops rooms, and bears a name of its own."""
    rows = variants.matrix(variants.on_every_python())
    assert len(rows) == len(room_combinations()) * len(PYTHON_VERSIONS) <= 256
    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        answers = dict(answer.split("=") for answer in row["answers"].split())
        assert answers.keys() == {*variants.OPTIONS, "python_version"}
        assert answers["python_version"] == row["python"]
        assert variants.makes_sense(answers)


def test_the_matrix_needs_nothing_installed() -> None:
    """The workflow asks for it before anything is."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", ROOT / "tools" / "variants.py"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == variants.matrix(variants.pairwise(variants.on_every_python()))


def test_workflows_of_deploys_differ_in_the_one_step(template: Path) -> None:
    """What builds, signs, verifies and tells is written twice, so it is held equal."""

    def jobs(path: str) -> dict[str, object]:
        read = yaml.safe_load((template / TEMPLATE_FOLDER / path / ".github/workflows/deploy.yml").read_text())["jobs"]
        for name in ("staging", "production"):
            steps = read[name]["steps"]
            read[name]["steps"] = [each for each in steps if not each.get("name", "").startswith("Migrate, switch")]
            assert len(read[name]["steps"]) == len(steps) - 1
        return dict(read)

    assert jobs(".rooms/deploy/kubernetes") == jobs(".")
    assert jobs(".rooms/deploy/paas") == jobs(".")


def test_the_workflow_of_ecs_differs_in_who_lets_it_in(template: Path) -> None:
    """Another registry, and AWS in the place of keys; the order, the conditions, what is verified and told are the same."""

    def jobs(path: str) -> dict[str, dict[str, object]]:
        read = yaml.safe_load((template / TEMPLATE_FOLDER / path / ".github/workflows/deploy.yml").read_text())["jobs"]
        same = ("needs", "environment", "runs-on", "name", "uses")
        told = ("Nothing goes on", "Say how it went", "Sign both")
        return {
            name: {key: job.get(key) for key in same}
            | {"if": job.get("if") if name != "build" else None}
            | {step["name"]: step.get("run") for step in job.get("steps", ()) if step.get("name", "").startswith(told)}
            for name, job in read.items()
        }

    assert jobs(".rooms/deploy/ecs") == jobs(".")


def test_names_are_the_answers(bake: Callable[..., Path]) -> None:
    """What a person answers is where it belongs, and the default's own names are nowhere."""
    project = bake(
        project_name="Quokka Radar",
        author="Wombat Works",
        email="ops@wombat.example",
        domain="radar.wombat.example",
        description="Finds quokkas.",
    )
    assert project.name == "quokka-radar"
    for path, text in text_files_of(project).items():
        if "tests/" not in path:
            for stray in ("Example Service", "example-service", "Example Team", "team@example.com"):
                assert stray not in text, f"{path}: {stray}"


def test_every_file_of_the_template_is_in_some_bake(template: Path, combinations: Combinations) -> None:
    """A file that no combination emits is dead."""
    emitted = set().union(*(files_of(project) for _, project in combinations))
    for name in files_of(template / TEMPLATE_FOLDER):
        path = Path(name)
        if path.parts[0] == ".rooms":
            path = Path(*path.parts[3:])
        assert path.as_posix() in emitted, path
