"""Nothing of the template, and nothing of a room that was not chosen, is left in a bake."""

from __future__ import annotations

import fnmatch
import functools
import re
import sys
from pathlib import Path

import pytest
from baking import QUESTIONS, ROOT, SOURCE, name_of, text_files_of
from stage import LEFT_BEHIND, TEMPLATE_FOLDER

Combinations = list[tuple[dict[str, str], Path]]

# What a project must not mention when the answer is another one. `(option, answers) -> pattern`.
WORDS = {
    (
        "deploy",
        ("compose",),
    ): r"ops/scripts/(deploy|door|provision|rollback|ship)\.sh|compose/prod|DEPLOY_(TARGET|SSH_KEY)",
    # Its name alone is where somebody explains what runs anywhere.
    ("deploy", ("ecs",)): r"\bECS\b|Fargate|cfn-lint|deploy/ecs|CloudFormation",
    ("deploy", ("kubernetes",)): r"kubectl|kustomiz|cnpg|deploy/kubernetes|docs/kubernetes|kubernetes\.md",
    ("deploy", ("paas",)): r"heroku|railway|onrender|render\.yaml|procfile|deploy/paas|docs/paas|paas\.md",
    ("example", ("documents",)): (
        # Error documents are something else, and so is what documents an error.
        r"(?<!error )(?<!problem )(?<!that )\bdocuments\b|DOCUMENTS_|DocumentsSettings|\bbeautifulsoup4?\b"
    ),
    # `minioadmin` is a password that nobody may use, wherever the storage is.
    ("object_storage", ("minio",)): r"minio(?!admin)",
    ("object_storage", ("seaweedfs",)): r"(?i)seaweed|\bweed\b",
    ("monitoring", ("prometheus", "prometheus+loki")): (
        r"grafana|alertmanager|promtool|amtool|ops/prometheus|^  prometheus:"
    ),
    # Archives of logs can come from a Loki that is somewhere else: that is a setting of every project.
    ("monitoring", ("prometheus+loki",)): r"grafana/alloy|ops/alloy|ops/loki|grafana/loki|loki:3100",
}

# What brings a newer template in has to name the tool that bakes it.
ABOUT_TEMPLATES = re.compile(
    r"\.cruft\.json|ops/template_update/|docs/template-update\.md|tests/ops/test_template_update\.py"
)

TAG = re.compile(r"<<%.*?%>>|<<#.*?#>>|<<.*?>>", re.DOTALL)
OWN_TAG = re.compile(r"<<%|<<#|<< ?\(?cookiecutter\b")


@functools.cache
def texts(project: Path) -> dict[str, str]:
    """Every text file of a combination; what two of them share is one string."""
    return {path: sys.intern(text) for path, text in text_files_of(project).items()}


@functools.cache
def found(pattern: str, text: str) -> tuple[tuple[int, str], ...]:
    """Number and words of each line that a pattern matches; combinations share most of their files."""
    if not re.search(pattern, text, re.IGNORECASE | re.MULTILINE):
        return ()
    lines = enumerate(text.splitlines(), 1)
    return tuple((number, match[0]) for number, line in lines if (match := re.search(pattern, line, re.IGNORECASE)))


def source_files() -> list[Path]:
    """Every file of the template folder that a clone would hold."""
    return [
        path
        for path in sorted(SOURCE.rglob("*"))
        if path.is_file()
        and not any(fnmatch.fnmatch(part, junk) for part in path.relative_to(SOURCE).parts for junk in LEFT_BEHIND)
    ]


def is_copied(path: str) -> bool:
    """Tell as cookiecutter does whether a path is only copied."""
    return any(fnmatch.fnmatch(path, pattern) for pattern in QUESTIONS["_copy_without_render"])


def text_of(path: Path) -> str | None:
    """The text of a file, or None for a binary one."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def test_what_is_copied_holds_no_tag_and_what_is_rendered_holds_one() -> None:
    """Compiling a file that needs no answer is most of a bake's time; copying one that does is a fault."""
    needless, unrendered = [], []
    for path in source_files():
        name = path.relative_to(SOURCE).as_posix()
        text = text_of(path)
        if is_copied(name):
            if text is not None and OWN_TAG.search(text):
                unrendered.append(name)
        elif text is None or not TAG.search(text):
            needless.append(name)
    assert unrendered == [], "these hold a tag and are listed in _copy_without_render"
    assert needless == [], "these need no answer and are not listed in _copy_without_render"


def test_every_entry_of_the_copy_list_is_needed() -> None:
    """An entry matches files, and no folder: cookiecutter removes a matched folder before it copies it."""
    names = [path.relative_to(SOURCE).as_posix() for path in source_files()]
    folders = {parent.as_posix() for name in names for parent in Path(name).parents} - {"."}
    for pattern in QUESTIONS["_copy_without_render"]:
        assert fnmatch.filter(names, pattern), f"{pattern} matches no file"
        assert fnmatch.filter(folders, pattern) == [], f"{pattern} matches a folder"


def test_every_double_angle_in_a_rendered_file_opens_a_tag() -> None:
    """A heredoc, a merge key or a shift would be taken for a tag and silently rendered wrong."""
    for path in source_files():
        name = path.relative_to(SOURCE).as_posix()
        text = text_of(path)
        if text is None or is_copied(name):
            continue
        for match in re.finditer("<<", text):
            line = text.count("\n", 0, match.start()) + 1
            assert OWN_TAG.match(text, match.start()), f"{name}:{line}"


def test_no_file_name_holds_a_tag() -> None:
    """Only the project's own folder is named by an answer."""
    assert [path.name for path in SOURCE.rglob("*") if "<<" in path.name] == []


def test_no_link_is_in_the_template() -> None:
    """Cookiecutter follows a link to a file and makes an empty folder of a link to a folder."""
    assert [path for path in source_files() if path.is_symlink()] == []


def test_no_tag_is_left(combinations: Combinations) -> None:
    """Neither one of ours nor one of the delimiters that other templates use for their answers."""
    stray = r"<<[%#]|<< ?\(?cookiecutter|[%#]>>|\{\{ ?-?\s*cookiecutter|\bcookiecutter\b"
    for answers, project in combinations:
        for path, text in texts(project).items():
            for line, words in found(stray, text):
                if words.lower() != "cookiecutter" or not ABOUT_TEMPLATES.match(path):
                    pytest.fail(f"{name_of(answers)}: {path}:{line}: {words}")


def test_no_dropped_room_is_mentioned(combinations: Combinations) -> None:
    """Who has not chosen a room never reads of it: not in a file, not in a file's name."""
    mentions = []
    for answers, project in combinations:
        for (option, keeping), words in WORDS.items():
            if answers[option] in keeping:
                continue
            pattern = re.compile(words, re.IGNORECASE)
            for path, text in texts(project).items():
                if re.fullmatch(r"requirements/.*\.txt|ops/deploy/.*/schemas/.*\.json", path):
                    continue  # what others have written
                if pattern.search(path):
                    mentions.append(f"{option} is {answers[option]}: {path}")
                for line, word in found(words, text):
                    mentions.append(f"{option} is {answers[option]}: {path}:{line}: {word}")
    assert not mentions, "\n".join(["", *sorted(set(mentions))])


def test_the_words_of_a_room_are_there_when_it_is_chosen(combinations: Combinations) -> None:
    """A pattern with a slip in it would pass the test above for ever."""
    for answers, project in combinations:
        for (option, keeping), words in WORDS.items():
            if answers[option] in keeping:
                assert any(found(words, text) for text in texts(project).values()), words


def test_no_folder_is_empty(combinations: Combinations) -> None:
    """A folder goes with its last file."""
    for answers, project in combinations:
        empty = [str(p.relative_to(project)) for p in project.rglob("*") if p.is_dir() and not any(p.iterdir())]
        assert empty == [], name_of(answers)


def test_blocks_leave_no_ragged_edges(combinations: Combinations) -> None:
    """A dropped block takes its blank lines along: none at a file's ends, never three together."""
    for answers, project in combinations:
        for path, text in texts(project).items():
            if is_copied(path) or path == "LICENSE":
                continue
            where = f"{name_of(answers)}: {path}"
            assert text.endswith("\n"), where
            assert not text.endswith("\n\n"), where
            assert "\n\n\n\n" not in text, where
            assert not text.startswith("\n"), where


def test_no_registry_and_no_machine_is_named() -> None:
    """Where packages come from is the machine's business, and so is where this repository lies."""
    hosts = "|".join(("pypi" + r"\.org", "python" + "hosted", "registry\\." + "npmjs", "--(extra-)?index" + "-url"))
    forbidden = re.compile(rf"{hosts}|{re.escape(str(ROOT))}\b")
    own = [
        path
        for part in ("tests", "tools", "hooks", "docs", "benchmarks", "requirements", ".github", ".ci")
        for path in (ROOT / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    own += [path for path in ROOT.iterdir() if path.is_file()]
    for path in [*own, *source_files()]:
        text = text_of(path)
        if text is not None and (match := forbidden.search(text)):
            pytest.fail(f"{path.relative_to(ROOT)}: {match[0]}")


def test_the_template_folder_bears_its_literal_name() -> None:
    """Cookiecutter finds the folder by the delimiters in its name."""
    assert SOURCE.name == TEMPLATE_FOLDER
    assert QUESTIONS["_jinja2_env_vars"]["variable_start_string"] == "<<"
