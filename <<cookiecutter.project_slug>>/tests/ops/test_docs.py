"""Every command in a document can be typed: bash reads it, and the programs of this project take its words."""

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from app.cli import cli
from devstack.__main__ import parser
from ops.backup.__main__ import cli as backup
from ops.check import docs

ROOT = Path(__file__).resolve().parents[2]
PAGES = docs.pages(ROOT)
# What takes the name of a service, and its options that take a value.
COMPOSE = {"exec", "run", "up", "logs", "ps", "stop", "start", "restart", "stats"}
VALUED = {"--tail", "--since", "--scale", "--user", "-u", "--file", "-f", "--env", "-e", "--format", "--timeout"}
USAGE: type[Exception] = typer.BadParameter.__mro__[1]  # what Typer raises when words do not fit
ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "2>/dev/null", "</dev/null", ")"}


def typed(text: str) -> Iterator[list[str]]:
    """The words of each command in the blocks of a page and in its lines, up to where another one begins."""
    blocks = [line for block in docs.commands(text) for line in block.replace("\\\n", " ").splitlines()]
    quoted = [code for code in docs.QUOTED.findall(docs.FENCE.sub("", text)) if "python" in code or "docker" in code]
    for line in [*blocks, *quoted]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a word in quotation marks goes on in the next line
            continue
        for number, word in enumerate(words):
            rest = words[number:]
            end = next((place for place, each in enumerate(rest) if each in ENDS), len(rest))
            if word.rpartition("/")[2] in ("python", "python3", "docker"):
                yield rest[:end]


def refusal(program: typer.Typer, words: list[str]) -> str:
    """What a command line of ours says to these words; it is asked to take them apart, and not to begin."""
    command: Any = typer.main.get_command(program)
    while hasattr(command, "commands"):
        if not words or words[0] in ("--help", "…") or words[0].isupper():  # its name alone, or one that stands for any
            return ""
        if words[0] not in command.commands:
            return f"there is no {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    if "--help" in words or "…" in words:
        return ""
    try:
        command.make_context(command.name, list(words))
    except USAGE as error:
        return str(error)
    return ""


def fault(words: list[str], services: set[str]) -> str:
    """What is wrong with a command, if anything."""
    match words:
        case [_, "-m", "app.cli", *rest]:
            return refusal(cli, rest)
        case [_, "-m", "ops.backup", *rest] if "drill" not in rest:
            return refusal(backup, rest)
        case [_, "-m", "devstack", *rest] if "--help" not in rest:
            try:
                parser().parse_args(rest)
            except SystemExit:
                return "the devstack takes no such words"
        case ["docker", "compose", verb, *rest] if verb in COMPOSE:
            named, inside = compose_services(verb, rest)
            return f"no such service: {named - services}" if named - services else fault(inside, services)
    return ""


def compose_services(verb: str, words: list[str]) -> tuple[set[str], list[str]]:
    """The services that a command of Compose names, and the command inside; `exec` and `run` have one service."""
    found: list[str] = []
    following = iter(words)
    for word in following:
        if word.startswith("-"):
            if word in VALUED:
                next(following, None)
        elif word.startswith(("<", ">", "2>", "$", "…")):
            break
        elif verb in ("exec", "run"):
            return {word}, list(following)
        else:
            found.append(word)
    return set(found), []


@pytest.fixture(scope="module")
def services() -> set[str]:
    """All that any environment has."""
    files = [ROOT / "compose.yaml", *(ROOT / "ops/compose/rooms").glob("*.yaml"), ROOT / "ops/compose/stage.yaml"]
    return {name for path in files for name in yaml.safe_load(path.read_text("utf-8"))["services"]}


def test_what_pages_name_exists() -> None:
    """Links, indexes, targets, scripts: the check itself, on this project."""
    assert docs.check(ROOT) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_bash_can_read_it(page: Path) -> None:
    """All blocks of a page in one go."""
    text = "\n".join(docs.commands(page.read_text("utf-8")))
    read = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr


def test_our_programs_take_the_words(services: set[str]) -> None:
    """Of every command in every page."""
    commands = [(page, words) for page in PAGES for words in typed(page.read_text("utf-8"))]
    assert len(commands) > 50
    found = [
        f"{page.name}: {shlex.join(words)}: {said}" for page, words in commands if (said := fault(words, services))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "python -m app.cli migrat",
        "python -m app.cli messages list --stat queued",
        "python -m ops.backup verify dump --nothing",
        "docker compose exec api python -m app.cli tasks ded",
        "docker compose run --rm backup python -m ops.backup restore dump --form 1",
        "docker compose logs --since 10m --tail 5 api nowhere",
        "python -m devstack --servces postgres",
    ],
)
def test_a_slip_is_noticed(line: str, services: set[str]) -> None:
    """The test above can fail."""
    assert [fault(words, services) for words in typed(f"```bash\n{line}\n```\n")] != [""]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[x](nowhere.md)", "there is no nowhere.md"),
        ("[x](#nowhere)", "there is no such heading"),
        ("see `app/core/nowhere.py`", "there is no file app/core/nowhere.py"),
        ("```bash\nmake chekc\n```", "make chekc: there is no such target"),
        ("Then `make test ARG=1`.", "nothing reads ARG"),
        ("```sh\nENV=prod make restore FORM=1\n```", "nothing reads FORM"),
        ("```bash\nops/scripts/nowhere.sh\n```", "ops/scripts/nowhere.sh cannot be run"),
        ("```bash\npython -m ops.nowhere\n```", "python -m ops.nowhere: there is no such module"),
    ],
)
def test_what_is_not_there_is_found(text: str, says: str) -> None:
    """Each of them in a page of its own."""
    page = ROOT / "docs/README.md"
    rules = docs.rules_of(ROOT)
    typed_lines = [*docs.commands(f"{text}\n"), *docs.QUOTED.findall(text)]
    found = [
        *docs.broken_links(page, text),
        *docs.unknown_files(ROOT, page, text),
        *(said for line in typed_lines for said in docs.unknown_targets(rules, line.strip())),
        *(said for line in typed_lines for said in docs.unknown_programs(ROOT, line)),
    ]
    assert any(says in said for said in found), found


def test_a_page_that_no_index_lists_is_found(tmp_path: Path) -> None:
    """A new page is entered in the index of its folder."""
    (tmp_path / "docs/runbook").mkdir(parents=True)
    (tmp_path / "docs/runbook/README.md").write_text("nothing")
    (tmp_path / "docs/new.md").write_text("# New")
    (tmp_path / "docs/README.md").write_text("[runbook](runbook/)")
    assert list(docs.unlisted(tmp_path, tmp_path / "docs/README.md", "[runbook](runbook/)")) == ["does not list new.md"]
