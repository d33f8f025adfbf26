"""The tables that decide what is dropped are complete and true."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from baking import CHOICES, QUESTIONS, ROOM_OPTIONS, SOURCE, command_line, files_of, name_of

from hooks.post_gen_project import CHOSEN, OVERLAYS, ROOMS

Combinations = list[tuple[dict[str, str], Path]]

# A path that bears one of these words belongs to the rooms of these answers, wherever it lies.
NAMES = {
    (
        "deploy",
        ("compose",),
    ): r"ops/scripts/(deploy|door|provision|release|rollback|ship)|ops/deploy/compose|compose/prod",
    ("deploy", ("ecs",)): r"(^|/|_)ecs\b",
    ("deploy", ("kubernetes",)): r"kubernetes|kustom",
    ("deploy", ("paas",)): r"paas|Procfile|railway|heroku|^app\.json|^render\.yaml",
    ("example", ("documents",)): r"documents",
    ("object_storage", ("minio",)): r"minio",
    ("object_storage", ("seaweedfs",)): r"seaweed",
    ("monitoring", ("prometheus", "prometheus+loki")): r"ops/.*(prometheus|alertmanager|grafana|monitoring)",
    ("monitoring", ("prometheus+loki",)): r"loki|alloy",
}
LISTED = [
    pytest.param(option, keeping, room, id=f"{option}={'|'.join(keeping)}:{room}")
    for option, answers in ROOMS.items()
    for keeping, rooms in answers.items()
    for room in rooms
]


@pytest.mark.parametrize(("option", "keeping", "room"), LISTED)
def test_every_listed_path_is_a_room(option: str, keeping: tuple[str, ...], room: str) -> None:
    """It exists in the template, and belongs to answers that can be given, if not to every one."""
    assert set(keeping) < set(CHOICES[option])
    assert (SOURCE / room).exists()


@pytest.mark.parametrize(("option", "keeping", "room"), LISTED)
def test_a_room_is_there_exactly_when_chosen(
    combinations: Combinations, option: str, keeping: tuple[str, ...], room: str
) -> None:
    """Whatever the other answers are; a room within another one needs both."""
    around = [
        (other, kept)
        for other, kinds in ROOMS.items()
        for kept, rooms in kinds.items()
        if any(room.startswith(f"{listed}/") for listed in rooms)
    ]
    for answers, project in combinations:
        chosen = all(answers[other] in kept for other, kept in [(option, keeping), *around])
        assert (project / room).exists() == chosen, name_of(answers)


def test_every_answer_that_can_be_dropped_has_its_words() -> None:
    """A new answer comes with its row in the tables of words, so that its strays are looked for."""
    from test_strays import WORDS

    with_rooms = {(option, keeping) for option, answers in ROOMS.items() for keeping in answers}
    assert with_rooms <= set(WORDS)
    assert with_rooms <= set(NAMES)


def test_no_path_bears_the_name_of_a_dropped_room(combinations: Combinations) -> None:
    """A new file of a room that the table does not list shows here."""
    for answers, project in combinations:
        paths = list(files_of(project))
        for (option, keeping), pattern in NAMES.items():
            if answers[option] not in keeping:
                assert [path for path in paths if re.search(pattern, path)] == []


def test_the_hook_knows_every_option() -> None:
    """An option that the hook never heard of could not drop anything."""
    assert sorted(CHOSEN) == sorted(ROOM_OPTIONS)
    assert {option: f"<< cookiecutter.{option} >>" for option in CHOSEN} == CHOSEN


def test_overlays_belong_to_answers_and_replace_files() -> None:
    """`.rooms/<option>/<answer>/path` replaces the path, never adds one, and never reaches a project."""
    for path in (SOURCE / OVERLAYS).rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            option, answer, *rest = path.relative_to(SOURCE / OVERLAYS).parts
            assert answer in CHOICES[option]
            assert SOURCE.joinpath(*rest).exists()


def test_no_overlay_reaches_a_project(combinations: Combinations) -> None:
    """The folder is the template's own."""
    assert [project for _, project in combinations if (project / OVERLAYS).exists()] == []


def _features(project: Path) -> tuple[str, ...]:
    tree = ast.parse((project / "app" / "features" / "__init__.py").read_text())
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FEATURES"
    ]
    assert len(values) == 1
    return tuple(ast.literal_eval(values[0]))


def test_the_list_of_features_is_the_features_there_are(combinations: Combinations) -> None:
    """FEATURES and the folders of app/features, tests and migrations name the same features."""
    for answers, project in combinations:
        features = set(_features(project))
        folders = {path.parent.name for path in (project / "app" / "features").glob("*/__init__.py")}
        assert folders == features, name_of(answers)
        assert {path.name for path in (project / "tests" / "features").iterdir() if path.is_dir()} <= features
        branches = {path.name for path in (project / "migrations" / "versions").iterdir() if path.is_dir()}
        assert branches <= {"core", *features}
        assert ("documents" in features) == (answers["example"] == "documents")


def test_the_overlay_differs_in_the_one_line() -> None:
    """What the two versions of the list share is written twice, so it is held equal."""
    whole = (SOURCE / "app" / "features" / "__init__.py").read_text()
    overlay = (SOURCE / OVERLAYS / "example" / "none" / "app" / "features" / "__init__.py").read_text()
    assert overlay == whole.replace('FEATURES = ("accounts", "documents")', 'FEATURES = ("accounts",)')
    assert overlay != whole


def test_the_hook_needs_only_the_bare_interpreter() -> None:
    """It runs in every bake: what it imports is what costs."""
    tree = ast.parse((SOURCE.parent / "hooks" / "post_gen_project.py").read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names} | {
        str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    assert imported == {"os"}


@pytest.mark.parametrize("ends_well", [True, False])
def test_the_hook_leaves_no_copy_of_itself(template: Path, tmp_path: Path, ends_well: bool) -> None:
    """Cookiecutter renders it into the temporary folder and forgets it there: one file a bake."""
    if not ends_well:
        template = Path(shutil.copytree(template, tmp_path / "template"))
        hook = template / "hooks" / "post_gen_project.py"
        hook.write_text(hook.read_text().replace("def drop() -> None:\n", "def drop() -> None:\n    raise OSError\n"))
    done = command_line(template, tmp_path / "out", "--no-input")
    assert (done.returncode == 0) == ends_well, done.stderr
    left = {path.name for path in (tmp_path / ".out-home").iterdir()}
    assert left == {".cookiecutter_replay"}


def test_defaults_are_the_first_choices(default_project: Path, bake: Callable[..., Path]) -> None:
    """Saying the defaults aloud gives the same project as pressing Enter."""
    spoken = {name: answers[0] for name, answers in CHOICES.items()}
    assert files_of(bake(**spoken, python_version=QUESTIONS["python_version"])) == files_of(default_project)
