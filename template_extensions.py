"""What the bake adds to Jinja: checks of every answer, and filters that quote it for the file it goes into.

Cookiecutter loads `Answers` by `_extensions`. The checks run from private variables in cookiecutter.json,
each behind its question, so that a bad answer is one line on stderr before a single file exists. An exception
of cookiecutter's own would end on stdout, and one from a hook as a traceback behind half a project.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, ClassVar

import click
from jinja2 import Environment, Template
from jinja2.ext import Extension
from slugify import slugify

HERE = Path(__file__).resolve().parent
TEMPLATE_FOLDER = "<<cookiecutter.project_slug>>"

PYTHON_VERSIONS = ("3.11", "3.12", "3.13", "3.14")
SLUG_LENGTH = 40
TEXT_LENGTHS = {"project_name": 60, "description": 200, "author": 80}

QUESTIONS: dict[str, Any] = json.loads((HERE / "cookiecutter.json").read_text(encoding="utf-8"))
# Cookiecutter would end with a traceback at a choice that it does not know, so it is not told that there are choices.
CHOICES: dict[str, list[str]] = QUESTIONS["_choices"]

_LINES = (HERE / "reserved-slugs.txt").read_text(encoding="utf-8").splitlines()
RESERVED_SLUGS = frozenset(word for line in _LINES if not line.startswith("#") for word in line.split())

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"(?:{_LABEL}\.)+(?:[a-z]{{2,63}}|xn--[a-z0-9-]{{1,57}}[a-z0-9])")
_LOCAL_PART = re.compile(r"[A-Za-z0-9_%+-]+(?:\.[A-Za-z0-9_%+-]+)*")
_SLUG = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
# Controls, surrogates and line separators break files; what turns the direction of text hides what it says.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_FORBIDDEN_CHARACTERS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c\ufeff")


class BadAnswer(click.ClickException):
    """An answer that cannot be used; its message is the one line that the person sees."""

    def __init__(self, question: str, answer: object, rule: str) -> None:
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(answer))
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        super().__init__(f'{question} "{shown}": {rule}')


def _fault_of_text(question: str, answer: str) -> str | None:
    if not answer.strip():
        return "must not be empty"
    if answer != answer.strip():
        return "must not begin or end with a space"
    if len(answer) > TEXT_LENGTHS[question]:
        return f"must be at most {TEXT_LENGTHS[question]} characters, and is {len(answer)}"
    for character in answer:
        noncharacter = ord(character) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(character) <= 0xFDEF
        if (
            noncharacter
            or unicodedata.category(character) in _FORBIDDEN_CATEGORIES
            or character in _FORBIDDEN_CHARACTERS
        ):
            return f"must be one line of visible text, and holds the control character U+{ord(character):04X}"
    return None


def _fault_of_slug(answer: str) -> str | None:
    if not _SLUG.fullmatch(answer) or not 2 <= len(answer) <= SLUG_LENGTH:
        return (
            f"must be 2 to {SLUG_LENGTH} lower-case letters and digits, with single hyphens between them, "
            "and begin with a letter (my-service)"
        )
    if answer in RESERVED_SLUGS:
        return f"is reserved: it would shadow a module, a tool or a part of the project; try {answer}-service"
    return None


def _fault_of_host(answer: str) -> str | None:
    if not _HOST_NAME.fullmatch(answer) or len(answer) > 253:
        return "must be a host name in lower case without scheme, port or path (api.example.com)"
    return None


def _fault_of_email(answer: str) -> str | None:
    local, _, host = answer.rpartition("@")
    if not _LOCAL_PART.fullmatch(local) or len(local) > 64 or _fault_of_host(host.lower()):
        return "must be an e-mail address (team@example.com)"
    return None


def _fault_of_python(answer: str) -> str | None:
    if answer not in PYTHON_VERSIONS:
        return f"must be one of {', '.join(PYTHON_VERSIONS)}"
    return None


def _fault_of_choice(question: str, answer: str) -> str | None:
    if answer not in CHOICES[question]:
        return f"must be one of {', '.join(CHOICES[question])}"
    return None


def fault_of(question: str, answer: str) -> str | None:
    """Say what is wrong with an answer, or None."""
    if question in CHOICES:
        return _fault_of_choice(question, answer)
    match question:
        case "project_slug":
            return _fault_of_slug(answer)
        case "domain":
            return _fault_of_host(answer)
        case "email":
            return _fault_of_email(answer)
        case "python_version":
            return _fault_of_python(answer)
        case _:
            return _fault_of_text(question, answer)


def nonsense(answers: Mapping[str, Any], question: str) -> str | None:
    """Say why the answer to a question makes no sense beside those to earlier ones, or None.

    The table is `_senseless` in cookiecutter.json: answers that do not go together, the question that is asked last being
    the one that is refused.
    """
    asked = list(QUESTIONS)
    for row in QUESTIONS["_senseless"]:
        together = {name: choices for name, choices in row.items() if name != "why"}
        if max(together, key=asked.index) == question and all(answers[name] in together[name] for name in together):
            beside = " ".join(f"{name}={answers[name]}" for name in together if name != question)
            return f"makes no sense with {beside}: {row['why']}"
    return None


def _fitting_choices(answers: Mapping[str, Any], question: str) -> list[str]:
    return [choice for choice in CHOICES[question] if nonsense({**answers, question: choice}, question) is None]


def fitting(answers: Mapping[str, Any], question: str) -> str:
    """Suggest the first choice that makes sense beside the answers before it."""
    return _fitting_choices(answers, question)[0]


FREE_TEXT = ("project_name", "project_slug", "description", "author", "domain", "email", "python_version")


def _good(answers: Mapping[str, Any], question: str) -> str:
    answer = answers[question]
    fault = fault_of(question, answer) if isinstance(answer, str) else "must be text"
    if not fault and question in CHOICES and (fault := nonsense(answers, question)):
        fault = f"{fault}; choose {' or '.join(_fitting_choices(answers, question))}"
    if fault:
        raise BadAnswer(question, answer, fault)
    return str(answer)


def _somebody_types() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and context.params.get("no_input") is False and sys.stdin.isatty()


def checked(answers: MutableMapping[str, Any], question: str) -> str:
    """Return the answer if it can be used and makes sense beside those before it; else end the bake with one line.

    Where somebody types the answers, that line is followed by the question again: a slip would lose all the others.
    """
    while True:
        try:
            return _good(answers, question)
        except BadAnswer as bad:
            if not _somebody_types():
                raise
            click.echo(f"    {bad.message}")
            answers[question] = click.prompt(f"    {question}", prompt_suffix=" once more: ")


def checked_slug(answers: Mapping[str, Any]) -> str:
    """Check all answers once more where the folder gets its name, and return that name.

    A replay file brings its own private variables, so that the checks behind the questions do not run; and a
    slug such as `../elsewhere` writes outside the output folder.
    """
    for question in (*FREE_TEXT, *CHOICES):
        _good(answers, question)
    return str(answers["project_slug"])


def known_only(answers: Mapping[str, Any]) -> str:
    """Refuse answers that nobody asked for: cookiecutter would drop a misspelt `exmaple=none` silently."""
    context = click.get_current_context(silent=True)
    given = (context.params.get("extra_context") if context else None) or {}
    for question, answer in given.items():
        if question.startswith("_") or question not in answers:
            asked = ", ".join(name for name in answers if not name.startswith("_"))
            raise BadAnswer(question, answer, f"is no question of this template; it asks {asked}")
    return ""


def suggested_slug(project_name: str) -> str:
    """Derive a slug that passes the check from any name, in whatever script it is written."""
    slug = re.sub(r"^[^a-z]+", "", slugify(project_name))[:SLUG_LENGTH].strip("-")
    if not slug:
        return "my-service"
    if len(slug) < 2 or slug in RESERVED_SLUGS:
        return f"{slug[: SLUG_LENGTH - 8].strip('-')}-service"
    return slug


def quoted(value: str) -> str:
    """Write a string, quotation marks included, as JSON, YAML and TOML all read it."""
    return json.dumps(value, ensure_ascii=False)


def md(value: str) -> str:
    """Write text into Markdown so that every character of it is shown and none of it is markup."""
    escaped = re.sub(r"([\\`*_\[\]<>&#|~$])", r"\\\1", value)
    return re.sub(r"^([-+=]|\d+(?=[.)]))", lambda m: rf"\{m[1]}" if not m[1].isdigit() else f"{m[1]}\\", escaped)


_ORIGIN = re.compile(r'^\[remote "origin"\][^\[]*?^\s*url\s*=\s*(\S+)', re.MULTILINE | re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def checked_out(template: Path) -> tuple[str | None, str]:
    """Read which commit of which repository a folder is, as its `.git` says: no program runs, and a clone gives the same.

    Returns:
        The commit, or None where there is no `.git` or it is kept in a form that is not known here; and the address of
        `origin`, or nothing where that is a path of this machine. What a bake from changed files was made of is not
        seen: those changes count as the person's own when a newer template comes in.
    """
    folder = template / ".git"
    if folder.is_file():  # a worktree or a submodule
        folder = template / _read(folder).removeprefix("gitdir:").strip()
    shared = folder / (_read(folder / "commondir").strip() or ".")
    head = _read(folder / "HEAD").strip()
    if head.startswith("ref: "):
        reference = head.removeprefix("ref: ")
        packed = re.search(rf"^([0-9a-f]+) {re.escape(reference)}$", _read(shared / "packed-refs"), re.MULTILINE)
        head = _read(shared / reference).strip() or (packed[1] if packed else "")
    origin = _ORIGIN.search(_read(shared / "config"))
    address = re.sub(r"^(https?://)[^/@]*@", r"\1", origin[1] if origin else "")  # a token is nobody else's
    remote = re.match(r"(?!file:)[a-z+]+://|[\w.-]+@[\w.-]+:", address)
    return (head if _COMMIT.fullmatch(head) else None), (address if remote else "")


def record(answers: Mapping[str, Any]) -> str:
    """Write what a newer template needs to come into the project: where from, which commit, which answers.

    The form is that of cruft, so that its commands work as well.
    """
    commit, address = checked_out(HERE)
    asked = {name: answer for name, answer in answers.items() if not name.startswith("_")}
    state = {
        "template": address,
        "commit": commit,
        "checkout": None,
        "context": {"cookiecutter": asked},
        "directory": None,
    }
    return json.dumps(state, ensure_ascii=False, indent=2)


class Literal:
    """A text without a tag, where cookiecutter expects a template."""

    def __init__(self, text: str) -> None:
        self.text = text

    def render(self, **_context: object) -> str:
        """Give the text back."""
        return self.text


class Answers(Extension):
    """Adds the checks and filters, and keeps an answer from being run as a template."""

    _own_sources: ClassVar[frozenset[str] | None] = None

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.filters.update(
            checked=checked,
            fitting=fitting,
            known_only=known_only,
            md=md,
            quoted=quoted,
            record=record,
            suggested_slug=suggested_slug,
        )
        environment.globals.update(template_folder=str(HERE / TEMPLATE_FOLDER), checked_slug=checked_slug)
        self._compile_only_tags(environment)

    @staticmethod
    def _compile_only_tags(environment: Environment) -> None:
        """Hand a text that has no tag back as it is.

        Cookiecutter compiles the path of every file and folder, to learn that it is what it was: half of a bake.
        """
        compiled = environment.from_string

        def from_string(source: str, *arguments: Any, **options: Any) -> Template | Literal:
            if environment.variable_start_string in source:
                return compiled(source, *arguments, **options)
            return Literal(source)

        environment.from_string = from_string  # type: ignore[assignment, method-assign]

    @classmethod
    def own_sources(cls) -> frozenset[str]:
        """The texts without a file name that are templates: questions' defaults, and hooks."""
        if cls._own_sources is None:
            hooks = [path.read_text(encoding="utf-8") for path in (HERE / "hooks").glob("*.py")]
            cls._own_sources = frozenset([*hooks, *(v for v in QUESTIONS.values() if isinstance(v, str))])
        return cls._own_sources

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:  # noqa: ARG002  # Jinja's signature
        """Leave files alone, check the folder's name, and take all else that looks like a tag literally.

        Cookiecutter renders an answer from the command line as if it were a default of the template, and the
        whole output path for every folder: `A << B` would end in a traceback, and `<< ... >>` would be run.
        """
        if name is not None or self.environment.variable_start_string not in source:
            return source
        if source == TEMPLATE_FOLDER:
            return "<< checked_slug(cookiecutter) >>"
        if source in self.own_sources():
            return source
        literal = source.encode("unicode_escape").decode("ascii").replace('"', r"\"")
        return f'<< "{literal}" >>'
