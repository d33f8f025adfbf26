"""A feature is begun whole or not at all, and what somebody wrote into the list of features stays."""

import ast
from pathlib import Path

import pytest

from ops.feature import FEATURES, Refused, begin, entered, features

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """As much of a project as the command looks at."""
    (tmp_path / FEATURES).parent.mkdir(parents=True)
    (tmp_path / FEATURES).write_text('FEATURES = ("first",)\n')
    return tmp_path


def test_a_feature_is_begun(project: Path) -> None:
    """Every file is Python and bears the name; the list has it at its end."""
    written = begin(project, "time_sheets")
    for path in written:
        ast.parse(path.read_text())
        assert "sample" not in path.read_text().lower()
    names = {path.relative_to(project).as_posix() for path in written}
    assert {
        *(
            f"app/features/time_sheets/{kind}.py"
            for kind in ("api", "models", "schemas", "service", "settings", "tasks")
        ),
        "migrations/versions/time_sheets/time_sheets_0001_begin.py",
        "tests/features/time_sheets/test_time_sheets.py",
    } <= names
    assert "class TimeSheetsItem(Base)" in (project / "app/features/time_sheets/models.py").read_text()
    assert 'prefix: ClassVar[str] = "TIME_SHEETS_"' in (project / "app/features/time_sheets/settings.py").read_text()
    assert features((project / FEATURES).read_text()) == ("first", "time_sheets")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Billing",
        "1st",
        "a-b",
        "a__b",
        "x" * 21,
        "../x",
        "class",
        "match",
        "core",
        "auth",
        "auth_x",
        "first",
        "first_more",
    ],
)
def test_a_bad_name_is_refused(project: Path, name: str) -> None:
    """In one line, and nothing is written."""
    with pytest.raises(Refused) as refused:
        begin(project, name, {"auth"})
    assert "\n" not in str(refused.value)
    assert [path for path in project.rglob("*") if path.is_file()] == [project / FEATURES]


def test_what_lies_there_is_not_written_over(project: Path) -> None:
    """Also when it is in no list."""
    mine = project / "tests/features/billing/mine.py"
    mine.parent.mkdir(parents=True)
    mine.write_text("MINE = True\n")
    with pytest.raises(Refused, match="tests/features/billing is there already"):
        begin(project, "billing")
    assert features((project / FEATURES).read_text()) == ("first",)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("FEATURES = ()\n", 'FEATURES = ("new",)\n'),
        ('FEATURES = ("a",)  # mine\n', 'FEATURES = ("a", "new")  # mine\n'),
        ('X = 1\nFEATURES = ("a", "b")\nY = 2\n', 'X = 1\nFEATURES = ("a", "b", "new")\nY = 2\n'),
        (
            'FEATURES = (\n    "a",  # the first\n    # switched off: "b",\n)\n',
            'FEATURES = (\n    "a",  # the first\n    # switched off: "b",\n    "new",\n)\n',
        ),
        ('FEATURES = (\n    "a",\n    "b"\n)\n', 'FEATURES = (\n    "a",\n    "b",\n    "new",\n)\n'),
    ],
)
def test_the_list_keeps_what_was_written_around_it(before: str, after: str) -> None:
    """Comments, order, one name a line."""
    assert entered(before, "new") == after


def test_a_long_list_gets_a_line_for_each() -> None:
    """As the formatter would have it."""
    names = [f"feature_number_{number}" for number in range(6)]
    text = entered(f"FEATURES = ({', '.join(repr(name) for name in names)})\n", "new")
    assert features(text) == (*names, "new")
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("text", ["FEATURES = tuple(found())\n", 'FEATURES = ("a", *MORE)\n', "NAMES = ()\n"])
def test_a_list_that_is_none_is_left_to_its_author(text: str) -> None:
    """Who computes it knows how to add to it."""
    with pytest.raises(Refused, match="by hand"):
        entered(text, "new")


def test_the_list_of_this_project_can_be_entered() -> None:
    """And is what the command reads."""
    from app import features as real

    text = (ROOT / FEATURES).read_text()
    assert features(text) == real.FEATURES
    assert features(entered(text, "new")) == (*real.FEATURES, "new")
