"""The runbook is whole: every page is in the index, every command is at least one; tests/system runs what it can."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = ROOT / "docs/runbook"
PAGES = sorted(path for path in RUNBOOK.glob("*.md") if path.name != "README.md")
BLOCKS = [
    pytest.param(info, text, id=f"{path.stem}-{number}")
    for path in sorted(RUNBOOK.glob("*.md"))
    for number, (info, text) in enumerate(re.findall(r"```(bash[^\n]*)\n(.*?)```", path.read_text("utf-8"), re.DOTALL))
]
# What takes the name of a service, and its options that take a value.
SERVICE_COMMANDS = r"exec|run|up|logs|ps|stop|start|restart|stats"
VALUED = {"--tail", "--since", "--scale", "--user", "-u", "--file", "-f", "--env", "-e", "--format", "--timeout"}


def services() -> set[str]:
    """All that any environment has."""
    files = [ROOT / "compose.yaml", *(ROOT / "ops/compose/rooms").glob("*.yaml"), ROOT / "ops/compose/stage.yaml"]
    return {name for path in files for name in yaml.safe_load(path.read_text("utf-8"))["services"]}


def test_every_page_is_in_the_index() -> None:
    """Who is woken at night begins there."""
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (RUNBOOK / "README.md").read_text("utf-8"))
    assert sorted(listed) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", [*PAGES, RUNBOOK / "README.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Within the project."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize(("info", "text"), BLOCKS)
def test_commands_are_commands(info: str, text: str) -> None:
    """Bash can read them; services and targets that they name exist."""
    assert info in ("bash", "bash compose"), f"{info}: run natively, or needing the containers?"
    read = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr
    for line in text.splitlines():
        for command, rest in re.findall(rf"docker compose(?: --\S+)* ({SERVICE_COMMANDS})\b([^|;&]*)", line):
            assert named(command, rest.split()) <= services(), line
        makefiles = [ROOT / "Makefile", *ROOT.glob("ops/deploy/*/*.mk")]
        targets = {name for path in makefiles for name in re.findall(r"(?m)^([a-z-]+):.*## ", path.read_text("utf-8"))}
        assert set(re.findall(r"\bmake ([a-z-]+)", line)) <= targets, line
        for script in re.findall(r"(?<![\w/])(ops/scripts/[\w.-]+)", line):
            assert os.access(ROOT / script, os.X_OK), script


def named(command: str, words: list[str]) -> set[str]:
    """The services in the arguments of a command of Compose; `exec` and `run` have one, then the program follows."""
    found = []
    following = iter(words)
    for word in following:
        if word.startswith("-"):
            if word in VALUED:
                next(following, None)
        elif word.startswith(("<", ">", "2>")):
            break
        else:
            found.append(word)
    return set(found[:1] if command in ("exec", "run") else found)


def test_a_command_for_a_service_that_is_gone_is_noticed() -> None:
    """The check above can fail."""
    assert named("exec", ["--user", "root", "api", "python", "-m", "app.cli"]) == {"api"}
    assert named("logs", ["--since", "10m", "--tail", "5", "api", "nowhere"]) - services() == {"nowhere"}
