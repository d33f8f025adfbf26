"""What a newer template brings is merged by git: between two bakes, and a project in which somebody worked."""

import json
import subprocess
from pathlib import Path

import pytest

from ops.template_update import merge, record, report
from ops.template_update.git import Refused, git

ROOT = Path(__file__).resolve().parents[2]
LINES = "".join(f"line {number}\n" for number in range(20))


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "A Person")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "person@example.com")


def folder(place: Path, files: dict[str, str]) -> Path:
    """A folder of files."""
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def project(place: Path, files: dict[str, str]) -> merge.Project:
    """The same, committed."""
    folder(place, files)
    git(place, "init", "--quiet", "--initial-branch", "main")
    git(place, "add", "--all", "--force")
    git(place, "commit", "--quiet", "--message", "mine")
    return merge.Project.at(place)


def test_edits_of_both_sides_come_together(tmp_path: Path) -> None:
    """Mine, the template's, a move of mine that its change follows, and a deletion of mine that it cannot undo."""
    old = folder(tmp_path / "old", {"a": LINES, "b": LINES.upper(), "c/d": "1\n", "c/e": "2\n"})
    new = folder(
        tmp_path / "new", {"a": LINES + "theirs\n", "b": "theirs\n" + LINES.upper(), "c/d": "3\n", "c/f": "4\n"}
    )
    here = project(tmp_path / "mine", {"a": "mine\n" + LINES, "moved": LINES.upper(), "mine": "x\n"})
    _, commit, away = merge.commits(here, old, new, "newer")
    outcome = merge.merge(here, commit, "template/new")
    assert (outcome.conflicts, away) == ([], ["c/d", "c/f"])
    assert (here.folder / "a").read_text() == f"mine\n{LINES}theirs\n"
    assert (here.folder / "moved").read_text() == f"theirs\n{LINES.upper()}"
    assert sorted(path.name for path in here.folder.iterdir()) == [".git", "a", "mine", "moved"]
    assert git(here.folder, "show", "main:a") == f"mine\n{LINES}"


def test_a_contradiction_is_shown_and_can_be_undone(tmp_path: Path) -> None:
    """Both lines are in the file, and the command that the report names takes it all back."""
    old, new = folder(tmp_path / "old", {"a": "one\n"}), folder(tmp_path / "new", {"a": "theirs\n"})
    here = project(tmp_path / "mine", {"a": "mine\n"})
    outcome = merge.merge(here, merge.commits(here, old, new, "newer")[1], "template/new")
    assert outcome.conflicts == [("a", "UU")]
    assert {"mine", "theirs"} < set((here.folder / "a").read_text().splitlines())
    said = report.lines(outcome, set(), [])
    assert any(line.startswith("  a: both changed it; edit what stands between the markers") for line in said)
    undo = said[-1].removeprefix("undo:")
    subprocess.run(["bash", "-euc", undo], cwd=here.folder, check=True, capture_output=True)
    assert (here.folder / "a").read_text() == "mine\n"
    assert git(here.folder, "branch", "--format", "%(refname:short)") == "main\n"


def test_a_file_that_git_ignores_is_not_written_over(tmp_path: Path) -> None:
    """Git itself would, without a word."""
    old, new = folder(tmp_path / "old", {"a": "one\n"}), folder(tmp_path / "new", {"a": "one\n", "notes": "theirs\n"})
    here = project(tmp_path / "mine", {"a": "one\n", ".gitignore": "notes\n"})
    folder(here.folder, {"notes": "mine\n"})
    with pytest.raises(Refused, match="unknown to git; move them: notes"):
        merge.merge(here, merge.commits(here, old, new, "newer")[1], "template/new")
    assert (here.folder / "notes").read_text() == "mine\n"


def test_this_project_knows_where_it_is_from() -> None:
    """Its answers are there, and nothing that was derived from them."""
    here = record.read(ROOT)
    assert here is not None
    assert here.answers["project_slug"]
    assert not any(name.startswith("_") for name in here.answers)


def test_a_record_keeps_what_others_wrote_into_it(tmp_path: Path) -> None:
    """A path of this machine is no address for others."""
    state = {
        "template": "https://a.example/t",
        "commit": "1",
        "skip": ["x"],
        "context": {"cookiecutter": {"_a": 1, "b": "c"}},
    }
    (tmp_path / record.NAME).write_text(json.dumps(state))
    here = record.read(tmp_path)
    assert here is not None
    moved = json.loads(here.moved("/home/me/t", "2", {"b": "d"}).text())
    assert moved["template"] == "https://a.example/t"
    assert (moved["commit"], moved["skip"], moved["context"]) == ("2", ["x"], {"cookiecutter": {"b": "d"}})
    (tmp_path / record.NAME).write_text("nothing of the kind")
    with pytest.raises(Refused, match="is no record"):
        record.read(tmp_path)
