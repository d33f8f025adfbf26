"""Good answers give a project, hostile ones a valid project, bad ones a line and nothing else."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from baking import CHOICES, QUESTIONS, SOURCE, command_line, files_of, text_files_of
from formats import parse, parser_for
from markdown_it import MarkdownIt

from template_extensions import (
    FREE_TEXT,
    RESERVED_SLUGS,
    SLUG_LENGTH,
    TEXT_LENGTHS,
    fault_of,
    md,
    nonsense,
    quoted,
    suggested_slug,
)

HOSTILE = {
    "quotes": """Bob's "Café" & 'Söhne' <b>x</b>""",
    "backslashes": r"C:\new\table \\ \" \u0041 \N{DASH}",
    "markup": "*a* _b_ `c` [d](http://e) # f | g <!-- h --> ~~i~~",
    "template tags": "{{ 7*7 }} {% if %} << 7*7 >> <<% raw %>> <<# #>> ${{ secrets.X }}",
    "half tags": "a << b >> c <<% d",
    "shell": "$HOME $(id) `id` ; rm -rf / %s %(x)s {x} !!",
    "yaml": "- yes: no # null & *a !b | > %",
    "toml": '[x] = \'y\' """ # z',
    "hangul": "한글 서비스 — ‘문서’ 찾기",
    "umlauts": "Öl & Süßes GmbH",
    "emoji": "🚀 Lift‑off 👩‍🚀",
    "digits first": "1. first",
    "dashes": "--- dashes ---",
}

BAD = [
    ("project_name", ""),
    ("project_name", "   "),
    ("project_name", " padded"),
    ("project_name", "two\nlines"),
    ("project_name", "bell\x07"),
    ("project_name", "nul-like\x7f"),
    ("project_name", "line\u2028separator"),
    ("project_name", "turned \u202eround"),
    ("project_name", "x" * (TEXT_LENGTHS["project_name"] + 1)),
    ("project_slug", ""),
    ("project_slug", "Bad Slug/.."),
    ("project_slug", "../outside"),
    ("project_slug", "a/b"),
    ("project_slug", "/absolute"),
    ("project_slug", "."),
    ("project_slug", ".."),
    ("project_slug", "back\\slash"),
    ("project_slug", "UPPER"),
    ("project_slug", "under_score"),
    ("project_slug", "1-first"),
    ("project_slug", "-dash"),
    ("project_slug", "dash-"),
    ("project_slug", "two--dashes"),
    ("project_slug", "a"),
    ("project_slug", "ünder"),
    ("project_slug", "new\nline"),
    ("project_slug", "trailing\n"),
    ("project_slug", "x" * (SLUG_LENGTH + 1)),
    *(("project_slug", slug) for slug in ("app", "test", "tests", "redis", "celery", "class", "json", "con", "lpt1")),
    ("description", "\t"),
    ("description", "x" * (TEXT_LENGTHS["description"] + 1)),
    ("author", "a\r\nb"),
    ("author", "x" * (TEXT_LENGTHS["author"] + 1)),
    ("email", ""),
    ("email", "nobody"),
    ("email", "a@b"),
    ("email", "a b@example.com"),
    ("email", "a@example.com, b@example.com"),
    ("email", "<a@example.com>"),
    ("email", '"quoted"@example.com'),
    ("email", "a..b@example.com"),
    ("email", "a@exa mple.com"),
    ("domain", ""),
    ("domain", "https://example.com"),
    ("domain", "example.com:8000"),
    ("domain", "example.com/path"),
    ("domain", "localhost"),
    ("domain", "Example.com"),
    ("domain", "-a.example.com"),
    ("domain", "a..example.com"),
    ("domain", "10.0.0.1"),
    ("domain", "example.com."),
    ("domain", "*.example.com"),
    ("domain", f"{'x' * 64}.example.com"),
    ("domain", "example.com; return 200"),
    ("python_version", "3.10"),
    ("python_version", "2.7"),
    ("python_version", "3.13.1"),
    ("python_version", "latest"),
]

GOOD = [
    ("project_name", "X"),
    ("project_slug", "a1"),
    ("project_slug", "my-service-2"),
    ("project_slug", "x" * SLUG_LENGTH),
    ("email", "first.last+tag@sub.example.co.uk"),
    ("email", "a@Example.COM"),
    ("domain", "example.com"),
    ("domain", "a-b.c1.example.museum"),
    ("domain", "xn--9t4b11yi5a.xn--3e0b707e"),
    ("python_version", "3.11"),
    ("python_version", "3.14"),
]


@pytest.mark.parametrize(("question", "answer"), BAD, ids=lambda value: ascii(value)[:40])
def test_a_bad_answer_has_a_fault(question: str, answer: str) -> None:
    """Each bad answer is found by its check."""
    assert fault_of(question, answer)


@pytest.mark.parametrize(("question", "answer"), GOOD, ids=lambda value: ascii(value)[:40])
def test_a_good_answer_has_none(question: str, answer: str) -> None:
    """A check that refuses everything would pass the test above."""
    assert fault_of(question, answer) is None


def test_every_free_text_question_is_checked_right_behind_itself() -> None:
    """A person learns of a bad answer before the next question, and no question is forgotten."""
    names = list(QUESTIONS)
    free = [name for name in names if not name.startswith("_") and name not in CHOICES]
    assert sorted(free) == sorted(FREE_TEXT)
    for question in free:
        assert names[names.index(question) + 1] == f"__{question}"
        assert QUESTIONS[f"__{question}"] == f"<< cookiecutter | checked('{question}') >>"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("project_name", ""),
        ("project_name", "two\nlines"),
        ("project_slug", "Bad Slug/.."),
        ("project_slug", "../outside"),
        ("project_slug", "redis"),
        ("description", "bell\x07"),
        ("author", "x" * 500),
        ("email", "nobody"),
        ("domain", "https://example.com"),
        ("python_version", "2.7"),
        ("license", "WTFPL"),
        ("license", ""),
        *((name, "sometihng") for name in CHOICES),
        ("exmaple", "none"),
        ("__project_slug", "ok"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_the_command_line_says_one_line_and_leaves_nothing(
    template: Path, tmp_path: Path, question: str, answer: str
) -> None:
    """Exit code 1, one line on stderr that names the question, and not a file anywhere near."""
    output = tmp_path / "deep" / "out"
    result = command_line(template, output, "--no-input", f"{question}={answer}")
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"Error: {question} ")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


SENSELESS = [
    pytest.param(dict(zip(row, answers, strict=False)), id=" ".join(answers))
    for row in QUESTIONS["_senseless"]
    for answers in itertools.product(*(choices for name, choices in row.items() if name != "why"))
]


@pytest.mark.parametrize("answers", SENSELESS)
def test_what_makes_no_sense_together_is_one_line(template: Path, tmp_path: Path, answers: dict[str, str]) -> None:
    """It names the last of the answers, the others, and what to choose instead; nothing is left behind."""
    last = max(answers, key=list(QUESTIONS).index)
    result = command_line(template, tmp_path / "out", "--no-input", *(f"{k}={v}" for k, v in answers.items()))
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f'Error: {last} "{answers[last]}": makes no sense with ')
    assert all(f"{name}={answer}" in result.stderr for name, answer in answers.items() if name != last)
    choices = result.stderr.rpartition("choose ")[2].strip().split(" or ")
    assert choices == [each for each in CHOICES[last] if each in choices and each != answers[last]]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("answers", SENSELESS)
def test_what_is_not_said_makes_sense(bake: Callable[..., Path], answers: dict[str, str]) -> None:
    """Who chooses the one and is silent of the last gets a project: its default is a choice that fits."""
    last = max(answers, key=list(QUESTIONS).index)
    project = bake(**{name: answer for name, answer in answers.items() if name != last})
    got = json.loads((project / ".cruft.json").read_text())["context"]["cookiecutter"]
    assert got[last] != answers[last]
    assert nonsense(got, last) is None


def test_the_table_of_nonsense_is_of_choices() -> None:
    """A slip in it would refuse nothing; and who asks nothing gets the first choice of each question."""
    for row in QUESTIONS["_senseless"]:
        assert len(row) >= 3
        assert row["why"].strip() == row["why"] != ""
        for name, choices in row.items():
            assert name == "why" or (choices and set(choices) < set(CHOICES[name]))
    assert nonsense({name: choices[0] for name, choices in CHOICES.items()}, "monitoring") is None


@pytest.mark.parametrize("force", ["--overwrite-if-exists", "--skip-if-file-exists"])
def test_forcing_does_not_switch_the_checks_off(template: Path, tmp_path: Path, force: str) -> None:
    """`-f` with a slug that climbs would overwrite what lies beside the output folder."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "README.md").write_text("mine")
    result = command_line(template, tmp_path / "out", "--no-input", force, "project_slug=../victim")
    assert result.returncode == 1
    assert files_of(victim) == {"README.md": b"mine"}


def test_a_forced_bake_keeps_a_persons_own_files(template: Path, tmp_path: Path) -> None:
    """Dropping a room takes out what the bake wrote, not what somebody has put beside it."""
    first = command_line(template, tmp_path / "out", "--no-input", "example=none")
    assert first.returncode == 0, first.stderr
    own = tmp_path / "out" / "example-service" / "app" / "features" / "documents" / "mine.py"
    own.parent.mkdir()
    own.write_text("MINE = True\n")
    again = command_line(template, tmp_path / "out", "--no-input", "-f", "example=none")
    assert again.returncode == 0, again.stderr
    assert [path.name for path in own.parent.iterdir()] == ["mine.py"]


def test_a_replay_file_is_checked_too(template: Path, tmp_path: Path) -> None:
    """A replay brings its private variables along, so the checks behind the questions do not run."""
    assert command_line(template, tmp_path / "out", "--no-input").returncode == 0
    replays = list((tmp_path / ".out-home").rglob("template.json"))
    assert len(replays) == 1
    answers = json.loads(replays[0].read_text())
    answers["cookiecutter"]["project_slug"] = "../climbed"
    replays[0].write_text(json.dumps(answers))
    result = command_line(template, tmp_path / "out", "--replay-file", str(replays[0]))
    assert result.returncode == 1
    assert result.stderr.startswith('Error: project_slug "../climbed"')
    assert not (tmp_path / "climbed").exists()


def test_questions_can_be_answered_by_a_person(template: Path, tmp_path: Path) -> None:
    """Typed answers arrive as they are, and pressing Enter takes the defaults."""
    enter = "\n" * (len([name for name in QUESTIONS if not name.startswith("_")]) - 1)
    result = command_line(template, tmp_path / "out", stdin=f"Söhne << & >>\n{enter}")
    assert result.returncode == 0, result.stderr
    project = tmp_path / "out" / "sohne"
    metadata = tomllib.loads((project / "pyproject.toml").read_text())
    assert metadata["tool"]["service"]["title"] == "Söhne << & >>"


def test_who_types_a_bad_answer_is_asked_again(template: Path, tmp_path: Path) -> None:
    """The other answers are not lost; what makes no sense beside an earlier one is such an answer."""
    typed = {
        "project_slug": ["Bad Slug", "good-slug"],
        "deploy": ["kubernetes"],
        "object_storage": ["minio", "ec2", "s3"],
    }
    questions = [name for name in QUESTIONS if not name.startswith("_")]
    lines = [line for question in questions for line in typed.get(question, [""])]
    keyboard, terminal = pty.openpty()
    try:
        os.write(keyboard, "".join(f"{line}\n" for line in lines).encode())
        result = command_line(template, tmp_path / "out", stdin=terminal)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'project_slug "Bad Slug": must be' in result.stdout
    assert 'object_storage "minio": makes no sense with deploy=kubernetes' in result.stdout
    assert 'object_storage "ec2": must be one of' in result.stdout
    record = json.loads((tmp_path / "out" / "good-slug" / ".cruft.json").read_text())
    got = record["context"]["cookiecutter"]
    assert (got["deploy"], got["object_storage"], got["domain"]) == ("kubernetes", "s3", "good-slug.example.com")


def test_every_choice_is_checked_right_behind_itself() -> None:
    """And its default is the first choice, or the first that makes sense where that depends on another answer."""
    names = list(QUESTIONS)
    questions = [name for name in names if not name.startswith("_") and name not in FREE_TEXT]
    assert questions == [name for name in names if name in CHOICES] == list(CHOICES)
    for name in questions:
        assert names[names.index(name) + 1] == f"__{name}"
        assert QUESTIONS[f"__{name}"] == f"<< cookiecutter | checked('{name}') >>"
        assert QUESTIONS[name] in (CHOICES[name][0], f"<< cookiecutter | fitting('{name}') >>")


def test_every_question_and_choice_has_a_label() -> None:
    """Nobody is asked for a variable name."""
    prompts = QUESTIONS["__prompts__"]
    for question in [name for name in QUESTIONS if not name.startswith("_")]:
        assert len(prompts[question]) > len(question)
        if question in CHOICES:  # one line each, which begins with what is to be typed
            _, *lines, _ = prompts[question].splitlines()
            assert [line.strip().partition(": ")[0] for line in lines] == CHOICES[question]
            assert all(line.startswith("    ") and line.partition(": ")[2] for line in lines)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_filters_keep_every_character(text: str) -> None:
    """What is read back from TOML, YAML, JSON and Markdown is what was typed."""
    import yaml

    assert json.loads(quoted(text)) == text
    assert tomllib.loads(f"x = {quoted(text)}")["x"] == text
    assert yaml.safe_load(f"x: {quoted(text)}")["x"] == text
    for markdown, tag in ((f"# {md(text)}", "h1"), (md(text), "p"), (f"- {md(text)}", "li")):
        html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
        reader = _Text()
        reader.feed(html)
        assert reader.text.strip() == text
        assert set(re.findall(r"<([a-z0-9]+)", html)) <= {tag, "ul", "p"}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_text_gives_a_valid_project(bake: Callable[..., Path], text: str) -> None:
    """Every file of the bake still is what its name says, and says the text unchanged."""
    answer = text[: TEXT_LENGTHS["project_name"]].strip()
    project = bake(project_name=answer, description=text, author=answer)
    assert project.name == suggested_slug(answer)
    parsed = 0
    for path, content in text_files_of(project).items():
        if parser_for(path):
            parse(path, content)
            parsed += 1
    assert parsed > 20
    metadata = tomllib.loads((project / "pyproject.toml").read_text())
    assert metadata["project"]["description"] == text
    assert metadata["project"]["authors"][0]["name"] == answer
    assert metadata["tool"]["service"]["title"] == answer
    container = json.loads((project / ".devcontainer" / "devcontainer.json").read_text())
    assert container["name"] == answer
    assert answer in (project / "LICENSE").read_text()


@pytest.mark.parametrize("name", [*HOSTILE.values(), "Redis", "日本語", "!!!", "1", "x" * 60, "a" * 39 + " b", "app"])
def test_a_slug_can_be_derived_from_any_name(name: str) -> None:
    """The suggested slug passes its own check, whatever the name."""
    assert fault_of("project_slug", suggested_slug(name)) is None


def test_every_requirement_is_a_reserved_name() -> None:
    """A project that bears the name of something it depends on cannot be resolved."""
    names = set()
    for source in (SOURCE / "requirements").glob("*.in"):
        for line in source.read_text().splitlines():
            if match := re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line):
                names.add(match[0].lower().replace("_", "-"))
    assert names
    assert names - RESERVED_SLUGS == set()


def test_every_folder_of_the_project_is_a_reserved_name() -> None:
    """A project named as one of its own folders is confusing at best."""
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    assert folders - RESERVED_SLUGS == set()
