"""A newer template comes into a project, and nothing that a person did in it is lost.

Twice: from earlier commits of this repository, with the edits that people make; and between small made-up templates, where
chance edits both sides and every odd case can be had.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import baking
import pytest
from baking import ROOT, SOURCE, files_of
from formats import blocks
from stage import PARTS, TEMPLATE_FOLDER

from template_extensions import checked_out

# Earlier states of this repository: the first that was whole, one in the middle, one from before a project knew its template.
EARLIER = (
    "913d04b2d1e18cbb75560ae03a66f43354a1d1e7",
    "7711166bfc59c0fcc299b7b1622c371603703ea9",
    "9ce784d95329bd140eb441d310d7e2355874c067",
)
# One whose projects know where they are from.
KNOWN = "905d510d564bc4b90b25bb81dea914f1de6a9a59"
IDENTITY = {
    "GIT_AUTHOR_NAME": "A Person",
    "GIT_AUTHOR_EMAIL": "person@example.com",
    "GIT_COMMITTER_NAME": "A Person",
    "GIT_COMMITTER_EMAIL": "person@example.com",
    # Nobody's own settings decide what a merge does here.
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}
MARKERS = (b"<<<<<<< ", b">>>>>>> ")


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)


def git(folder: Path, *arguments: str) -> str:
    """Run git, and answer with what it printed."""
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def commit(folder: Path, message: str = "work") -> str:
    """Commit everything there is."""
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(folder, "rev-parse", "HEAD").strip()


def by_command(template: Path, output: Path, *answers: str) -> Path:
    """Bake by the command line: another state of the template brings an extension of its own, and this process has one."""
    baked = baking.command_line(template, output, "--no-input", *answers)
    assert baked.returncode == 0, baked.stderr
    return next(path for path in output.iterdir() if path.is_dir())


def begin(project: Path) -> Path:
    """Put a baked project under git, as a person does."""
    git(project, "init", "--quiet", "--initial-branch", "main")
    commit(project, "baked")
    return project


def update(project: Path, *arguments: str, baked_by: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """Run the newest update command in a project, which may be too old to have one: see tools/adopt.py."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "adopt.py"), str(project), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TEMPLATE_PYTHON": baked_by},
        timeout=120,
    )


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a target of the project's own Makefile."""
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "VENV", "PYTHON"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["make", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**own, "PATH": path, "TEMPLATE_PYTHON": sys.executable},
        timeout=120,
    )


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository with the present state as its newest commit, whether that is committed or not."""
    clone = tmp_path_factory.mktemp("history") / "template"
    shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    if shallow != "false":
        pytest.fail(f"updates are tested from {', '.join(EARLIER)}: clone with the whole history (fetch-depth: 0)")
    git(ROOT, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone))
    git(clone, "switch", "--quiet", "--create", "present")
    for part in PARTS:
        if (clone / part).is_dir():
            shutil.rmtree(clone / part)
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS).split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    for name, value in IDENTITY.items():
        os.environ[name] = value
    commit(clone, "The present state")
    return clone


@pytest.fixture(scope="session")
def present(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """What the present template bakes with these tests' answers."""
    return files_of(by_command(history, tmp_path_factory.mktemp("present") / "out", *AS_ARGUMENTS))


ANSWERS = {"project_name": "Quokka Radar", "author": "Wombat & Söhne"}
AS_ARGUMENTS = [f"{name}={answer}" for name, answer in ANSWERS.items()]


@pytest.fixture(scope="session")
def baked_before(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Bake an earlier state of this repository once, under git; copy it before working on it."""
    made: dict[str, Path] = {}

    def bake(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("before")
            git(folder, "clone", "--quiet", "--shared", "--no-checkout", str(history), "template")
            git(folder / "template", "checkout", "--quiet", "--detach", name)
            made[name] = begin(by_command(folder / "template", folder / "out", *AS_ARGUMENTS))
        return made[name]

    return bake


@pytest.mark.parametrize("earlier", EARLIER, ids=lambda name: name[:7])
def test_an_untouched_project_becomes_what_the_present_template_bakes(
    history: Path, present: Mapping[str, bytes], baked_before: Callable[[str], Path], tmp_path: Path, earlier: str
) -> None:
    """Byte for byte, but for the record, which says where it is from; and its own branch is left as it was."""
    project = Path(shutil.copytree(baked_before(earlier), tmp_path / "project"))
    before = git(project, "rev-parse", "main")
    done = update(project, "--template", str(history), "--from", earlier, *AS_ARGUMENTS)
    assert done.returncode == 0, done.stdout + done.stderr
    now = _own_files(project)
    record = json.loads(now.pop(".cruft.json"))
    wanted = {path: content for path, content in present.items() if path != ".cruft.json"}
    assert sorted(now) == sorted(wanted)
    assert [path for path in wanted if now[path] != wanted[path]] == []
    assert record["commit"] == git(history, "rev-parse", "HEAD").strip()
    assert record["context"]["cookiecutter"]["author"] == ANSWERS["author"]
    assert git(project, "rev-parse", "main") == before
    assert git(project, "status", "--porcelain", "--untracked-files=no") == ""
    # From now on the project knows, and says so.
    assert update(project, "--template", str(history), "--check").returncode == 0


class Edits:
    """Ten kinds of edit that a person makes, each where it can meet a change of the template."""

    def __init__(self, project: Path, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> None:
        self.project = project
        self.folder = "app/features/documents"
        text = [path for path in sorted(old) if path.endswith((".py", ".md", ".yaml")) and old[path].count(b"\n") > 30]
        text = [path for path in text if not path.startswith(f"{self.folder}/")]  # which goes with all that is in it
        self.same = [path for path in text if new.get(path) == old[path]]
        # Changed, and long enough at its end and beginning for an edit that touches nothing of the change.
        changed = [path for path in text if path in new and new[path] != old[path]]
        self.changed = [path for path in changed if old[path].splitlines()[:4] == new[path].splitlines()[:4]]
        self.fresh = sorted(set(new) - set(old))
        self.lines: dict[str, list[bytes]] = {}

    def write(self, path: str, content: bytes) -> None:
        """Write a file."""
        target = self.project / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def insert(self, path: str, line: bytes, at: int = 1) -> None:
        """Put a line into a file, and remember it."""
        lines = (self.project / path).read_bytes().splitlines(keepends=True)
        self.write(path, b"".join([*lines[:at], line + b"\n", *lines[at:]]))
        self.lines.setdefault(path, []).append(line)

    def make(self) -> None:
        """All of them that no change of the template can contradict."""
        taken = iter(self.changed)
        self.insert(self.same[0], b"# 1 a line in a file that the template left alone", at=10)
        self.insert(next(taken), b"# 2 a line in a file that the template changed elsewhere")
        self.write("app/mine.py", b"# 3 a file of my own\n")
        self.lines["app/mine.py"] = [b"# 3 a file of my own"]
        (self.project / self.same[1]).unlink()  # 4 a file deleted that the template left alone
        self.deleted = next(taken)
        (self.project / self.deleted).unlink()  # 5 a file deleted that the template changed
        moved = next(taken)
        self.moved = (moved, f"app/moved/{Path(moved).name}")  # 6 a file moved that the template changed, with an edit
        (self.project / "app/moved").mkdir()
        (self.project / moved).rename(self.project / self.moved[1])
        self.insert(self.moved[1], b"# 6 a line in a file that I moved")
        (self.project / self.same[2]).chmod(0o755)  # 7 a mode
        self.write("docs/picture.png", b"\x89PNG\0\xff 8 a picture of my own")
        self.write("ops/nginx/www/static/favicon.svg", b"\0\xfe 9 another picture in the place of the template's")
        shutil.rmtree(self.project / self.folder)  # 10 a whole folder
        self.write("odd name é.txt", b"11 no line end, and no \xff UTF-8")

    def check(self) -> None:
        """None of them is lost."""
        for path, lines in self.lines.items():
            content = (self.project / path).read_bytes()
            for line in lines:
                assert content.count(line) == 1, f"{path}: {line!r}"
        assert not (self.project / self.same[1]).exists()
        assert not (self.project / self.deleted).exists()
        assert not (self.project / self.moved[0]).exists()
        assert (self.project / self.same[2]).stat().st_mode & 0o111
        assert (self.project / "docs/picture.png").read_bytes().endswith(b"8 a picture of my own")
        assert b"9 another picture" in (self.project / "ops/nginx/www/static/favicon.svg").read_bytes()
        assert not (self.project / self.folder).exists()
        assert (self.project / "odd name é.txt").read_bytes() == b"11 no line end, and no \xff UTF-8"


@pytest.mark.parametrize("earlier", EARLIER, ids=lambda name: name[:7])
def test_a_persons_edits_stay(
    history: Path, present: Mapping[str, bytes], baked_before: Callable[[str], Path], tmp_path: Path, earlier: str
) -> None:
    """Ten kinds of them: no conflict, no reject file, nothing lost, and the template's own changes are in."""
    project = Path(shutil.copytree(baked_before(earlier), tmp_path / "project"))
    old = _own_files(project)
    edits = Edits(project, old, present)
    edits.make()
    commit(project, "what I did")
    done = update(project, "--template", str(history), "--from", earlier, *AS_ARGUMENTS)
    assert done.returncode == 0, done.stdout + done.stderr
    edits.check()
    now = files_of(project)
    assert [path for path in now if path.endswith((".rej", ".orig"))] == []
    assert [path for path, content in now.items() if content.startswith(MARKERS) or b"\n<<<<<<< " in content] == []
    mine = {*edits.lines, edits.same[1], edits.deleted, *edits.moved, "ops/nginx/www/static/favicon.svg"}
    for path, content in present.items():
        if path not in mine and not path.startswith("app/features/documents/") and path != ".cruft.json":
            assert now.get(path) == content, path
    # The change followed the move, and what came into the deleted folder is told and not brought.
    moved = now[edits.moved[1]].replace(b"# 6 a line in a file that I moved\n", b"")
    assert moved == present[edits.moved[0]]
    assert f"  {edits.deleted}\n" in done.stdout


@pytest.mark.parametrize("earlier", EARLIER, ids=lambda name: name[:7])
def test_what_contradicts_is_shown(
    history: Path, present: Mapping[str, bytes], baked_before: Callable[[str], Path], tmp_path: Path, earlier: str
) -> None:
    """The same line changed by both, a file added by both, a file changed here and deleted there: markers, exit code 2, and back."""
    project = Path(shutil.copytree(baked_before(earlier), tmp_path / "project"))
    old = _own_files(project)
    both = next(path for path in sorted(old) if path.endswith(".py") and present.get(path, old[path]) != old[path])
    pairs = enumerate(zip(old[both].splitlines(), present[both].splitlines(), strict=False))
    first = next(number for number, (before, after) in pairs if before != after)
    lines = old[both].splitlines()
    lines[first] = b"# my own idea of this line"
    (project / both).write_bytes(b"\n".join(lines) + b"\n")
    fresh = next(path for path in sorted(set(present) - set(old)) if path != ".cruft.json")
    (project / fresh).parent.mkdir(parents=True, exist_ok=True)
    (project / fresh).write_text("# Mine\n\nwas here first\n")
    commit(project, "what I did")
    before = _own_files(project)
    done = update(project, "--template", str(history), "--from", earlier, *AS_ARGUMENTS)
    assert done.returncode == 2, done.stdout + done.stderr
    for path, mine in ((both, b"# my own idea of this line"), (fresh, b"was here first")):
        content = (project / path).read_bytes()
        assert mine in content
        assert all(marker in content for marker in MARKERS)
        assert f"  {path}: both " in done.stdout
    undo = next(line for line in done.stdout.splitlines() if line.startswith("undo:")).removeprefix("undo:")
    subprocess.run(["bash", "-euc", undo], cwd=project, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert git(project, "branch").split() == ["*", "main"]
    assert _own_files(project) == before


def test_the_example_stays_deleted(history: Path, tmp_path: Path) -> None:
    """Who deleted it as its document says has the answer changed along, and gets nothing of it again."""
    project = begin(by_command(history, tmp_path / "out", *AS_ARGUMENTS))
    document = (project / "docs" / "delete-documents.md").read_text()
    steps = document.split("```bash\n")[1].split("```")[0].splitlines()
    for step in steps:
        if not step.startswith("make "):
            subprocess.run(["bash", "-euc", step], cwd=project, check=True, stdin=subprocess.DEVNULL)
    assert json.loads((project / ".cruft.json").read_text())["context"]["cookiecutter"]["example"] == "none"
    commit(project, "without the example")
    newer = Path(shutil.copytree(history, tmp_path / "newer"))
    for path in ("app/features/documents/models.py", "app/features/documents/fresh.py", "app/core/db.py"):
        with (newer / TEMPLATE_FOLDER / path).open("a") as file:
            file.write("# newer\n")
    commit(newer, "newer")
    done = make(project, "template-update", f"TEMPLATE={newer}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (project / "app/features/documents").exists()
    assert (project / "app/core/db.py").read_text().endswith("# newer\n")


def test_the_commands_of_its_page_bring_a_newer_template_in(
    history: Path, present: Mapping[str, bytes], baked_before: Callable[[str], Path], tmp_path: Path
) -> None:
    """Typed as they are printed, from a commit that a project knows, with an edit that stays: look, see, take, merge."""
    project = Path(shutil.copytree(baked_before(KNOWN), tmp_path / "project"))
    (project / "mine.txt").write_text("mine\n")
    commit(project, "mine")
    taking, trying = [
        each.commands for each in blocks(present["docs/template-update.md"].decode()) if each.kind == "bash"
    ]

    def typed(step: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        told = {"PATH": path, "TEMPLATE": str(history), "TEMPLATE_PYTHON": sys.executable}
        return subprocess.run(
            ["bash", "-euc", step], cwd=project, env={**own, **told}, capture_output=True, text=True, timeout=120
        )

    look, see, take = map(typed, taking)
    assert look.returncode == 2, look.stderr  # make's word for a command that ended with 1
    assert re.search(r"\d+ commits behind", look.stdout)
    assert see.returncode == 0, see.stderr
    assert "diff --git" in see.stdout
    assert take.returncode == 0, take.stdout + take.stderr
    # That it passes its own checks and tests is for the bake of the same commit to show.
    assert trying[0] == "make setup && make check && make test"
    merged = typed(trying[1])
    assert merged.returncode == 0, merged.stderr
    assert git(project, "branch", "--show-current") == "main\n"
    now = _own_files(project)
    assert now.pop("mine.txt") == b"mine\n"
    assert [path for path in present if path != ".cruft.json" and now[path] != present[path]] == []


RECORD = b'{"template": "", "commit": null, "context": {"cookiecutter": {{ cookiecutter | jsonify }}}}\n'


class Small:
    """A template of a few files, and a project baked from it."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self.template, self.output = folder / "small", folder / "out"
        self.template.mkdir(parents=True)
        git(self.template, "init", "--quiet", "--initial-branch", "main")
        self.questions: dict[str, object] = {"slug": "small", "colour": ["red", "blue"]}
        self.publish(files)
        self.project = begin(baking.bake(self.template, self.output))
        self.first = git(self.template, "rev-parse", "HEAD").strip()
        record = json.loads((self.project / ".cruft.json").read_text())
        (self.project / ".cruft.json").write_text(json.dumps({**record, "commit": self.first}))
        commit(self.project, "recorded")

    def publish(self, files: Mapping[str, bytes]) -> str:
        """Commit a state of the template."""
        folder = self.template / "{{cookiecutter.slug}}"
        shutil.rmtree(folder, ignore_errors=True)
        for path, content in {".cruft.json": RECORD, **files}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        (self.template / "cookiecutter.json").write_text(json.dumps(self.questions))
        return commit(self.template, "another state")

    def update(self, *arguments: str, baked_by: str = sys.executable) -> subprocess.CompletedProcess[str]:
        """Bring the newest state in."""
        return update(self.project, "--template", str(self.template), *arguments, baked_by=baked_by)


def text(name: str, count: int = 40) -> list[str]:
    """Lines that are all different."""
    return [f"{name} line {number} says {random.Random(f'{name}{number}').random()}" for number in range(count)]


def as_bytes(lines: list[str]) -> bytes:
    """A file of lines."""
    return ("\n".join(lines) + "\n").encode()


BEGIN = {f"folder-{n % 3}/file-{n}.txt": text(f"file-{n}") for n in range(9)}


def chance(random_: random.Random, files: dict[str, list[str]], whose: str, count: int) -> list[str]:
    """Edit at random, and return the lines that were written."""
    written = []
    for number in range(count):
        path = random_.choice(sorted(files))
        kind = random_.choice(["insert", "insert", "change", "cut", "move", "delete", "add"])
        lines = files[path]
        place = random_.randrange(len(lines)) if lines else 0
        mine = f"{whose} wrote {number} {random_.random()}"
        if kind in {"insert", "change", "add"}:
            written.append(mine)
        if kind == "insert" or not lines:
            lines.insert(place, mine)
        elif kind == "change":
            lines[place] = mine
        elif kind == "cut":
            del lines[place : place + 3]
        elif kind == "move":
            files[f"{random_.choice(['folder-0', 'moved', whose])}/{number}-{path.rpartition('/')[2]}"] = files.pop(
                path
            )
        elif kind == "delete" and len(files) > 3:
            del files[path]
        elif kind == "add":
            files[f"{random_.choice(['folder-1', 'fresh'])}/added-{random_.randrange(3)}.txt"] = [mine, *text(mine, 5)]
    left = {line for lines in files.values() for line in lines}
    return [line for line in written if line in left]


@pytest.mark.parametrize("seed", range(5))
def test_chance_loses_no_line(tmp_path: Path, seed: int) -> None:
    """Twenty edits on each side: every line that the person wrote is there afterwards, and a conflict is never silent."""
    random_ = random.Random(seed)
    small = Small(tmp_path, {path: as_bytes(lines) for path, lines in BEGIN.items()})
    theirs = {path: list(lines) for path, lines in BEGIN.items()}
    chance(random_, theirs, "template", 20)
    small.publish({path: as_bytes(lines) for path, lines in theirs.items()})
    mine = {path: list(lines) for path, lines in BEGIN.items()}
    written = chance(random_, mine, "person", 20)
    for path in BEGIN:
        (small.project / path).unlink()
    for path, lines in mine.items():
        (small.project / path).parent.mkdir(parents=True, exist_ok=True)
        (small.project / path).write_bytes(as_bytes(lines))
    commit(small.project, "what I did")
    done = small.update()
    assert done.returncode in {0, 2}, done.stdout + done.stderr
    texts = [content for path, content in files_of(small.project).items() if not path.startswith((".git/", ".cache/"))]
    whole = b"\n".join(texts).decode()
    assert written
    assert [line for line in written if line not in whole] == []
    marked = any(marker in content for content in texts for marker in MARKERS)
    unmerged = git(small.project, "diff", "--name-only", "--diff-filter=U").split()
    assert bool(unmerged) == (done.returncode == 2)
    assert not marked or done.returncode == 2


def test_a_picture_that_both_changed_is_kept(tmp_path: Path) -> None:
    """Mine stays in its place, and the template's is an argument away."""
    small = Small(tmp_path, {"picture.png": b"\x89PNG\0one", "a.txt": b"a\n"})
    small.publish({"picture.png": b"\x89PNG\0two", "a.txt": b"a\n"})
    (small.project / "picture.png").write_bytes(b"\x89PNG\0mine")
    commit(small.project)
    done = small.update()
    assert done.returncode == 2
    assert "picture.png: both changed it; no text" in done.stdout
    assert (small.project / "picture.png").read_bytes() == b"\x89PNG\0mine"
    git(small.project, "checkout", "--theirs", "picture.png")
    assert (small.project / "picture.png").read_bytes() == b"\x89PNG\0two"


def test_a_deletion_there_of_what_was_changed_here_is_shown(tmp_path: Path) -> None:
    """My version stays until I say what becomes of it."""
    small = Small(tmp_path, {"a.txt": as_bytes(text("a")), "b.txt": b"b\n"})
    small.publish({"b.txt": b"b\n"})
    (small.project / "a.txt").write_bytes(as_bytes([*text("a"), "mine"]))
    commit(small.project)
    done = small.update()
    assert done.returncode == 2
    assert "a.txt: you changed it, the template deleted it" in done.stdout
    assert b"mine" in (small.project / "a.txt").read_bytes()


def test_what_was_deleted_stays_so_under_its_new_name(tmp_path: Path) -> None:
    """Moved by the template, or come into a folder that was deleted whole; a moved folder is no deleted one."""
    files = {"gone/a.txt": as_bytes(text("a")), "gone/b.txt": as_bytes(text("b")), "kept/c.txt": as_bytes(text("c"))}
    small = Small(tmp_path, files)
    small.publish(
        {
            "else/a.txt": as_bytes([*text("a"), "newer"]),
            "gone/fresh.txt": b"new\n",
            "kept/c.txt": as_bytes([*text("c"), "newer"]),
        }
    )
    shutil.rmtree(small.project / "gone")
    (small.project / "kept").rename(small.project / "moved")
    commit(small.project)
    done = small.update()
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path for path in files_of(small.project) if path.endswith(".txt")) == ["moved/c.txt"]
    assert (small.project / "moved/c.txt").read_text().endswith("newer\n")
    assert "  else/a.txt\n  gone/fresh.txt\n" in done.stdout


def test_new_questions_are_answered_by_default_and_told(tmp_path: Path) -> None:
    """Or as one says; what is no longer asked goes, and what is no choice any more is refused before anything happens."""
    small = Small(tmp_path, {"a.txt": b"{{ cookiecutter.colour }}\n"})
    small.questions = {"slug": "small", "colour": ["red", "blue"], "size": "large"}
    second = small.publish({"a.txt": b"{{ cookiecutter.colour }} {{ cookiecutter.size }}\n"})
    small.questions = {"slug": "small", "size": "large", "shape": ["round"]}
    small.publish({"a.txt": b"{{ cookiecutter.size }} {{ cookiecutter.shape }}\n"})
    refused = small.update("colour=green", "--to", second)
    assert refused.returncode == 1
    assert "colour=green is no choice (any more); choose: colour=red or blue" in refused.stderr
    unknown = small.update("weight=1")
    assert unknown.returncode == 1
    assert "weight is no question" in unknown.stderr
    assert git(small.project, "branch").split() == ["*", "main"]
    done = small.update("colour=blue", "--to", second)
    assert done.returncode == 0, done.stderr
    assert (small.project / "a.txt").read_text() == "blue large\n"
    assert "answered anew: colour=blue" in done.stdout
    assert "new question: size=large" in done.stdout
    done = small.update("size=small")
    assert done.returncode == 0, done.stderr
    assert (small.project / "a.txt").read_text() == "small round\n"
    assert "no longer asked: colour=blue" in done.stdout


def _dirty(small: Small) -> None:
    (small.project / "a.txt").write_text("not committed\n")


def _unborn(small: Small) -> None:
    shutil.rmtree(small.project / ".git")
    git(small.project, "init", "--quiet")


def _untracked(small: Small) -> None:
    (small.project / "fresh").write_text("mine, where the template wants a folder\n")


def _ignored(small: Small) -> None:
    """Git would write over it without a word."""
    (small.project / ".gitignore").write_text("fresh/\n")
    commit(small.project)
    (small.project / "fresh").mkdir()
    (small.project / "fresh" / "b.txt").write_text("mine, and ignored\n")


def _branch(small: Small) -> None:
    git(small.project, "branch", f"template/{git(small.template, 'rev-parse', 'HEAD')[:7]}")


REFUSALS: dict[str, tuple[Callable[[Small], object], tuple[str, ...], str]] = {
    "dirty": (_dirty, (), "not committed"),
    "no git": (lambda small: shutil.rmtree(small.project / ".git"), (), "no git repository"),
    "unborn": (_unborn, (), "no commit yet"),
    "unknown commit": (lambda _: None, ("--from", "0" * 40), "has no commit 0000"),
    "untracked": (_untracked, (), "lie here already, unknown to git; move them: fresh"),
    "ignored": (_ignored, (), "lie here already, unknown to git; move them: fresh/b.txt"),
    "branch": (_branch, (), "is there already"),
    "nowhere": (lambda small: shutil.rmtree(small.template), (), "no template answers"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_it_refuses_rather_than_lose(tmp_path: Path, what: str) -> None:
    """One line that says what to do, exit code 1, and every file and branch is as it was."""
    small = Small(tmp_path, {"a.txt": b"a\n"})
    small.publish({"a.txt": b"b\n", "fresh/b.txt": b"b\n"})
    arrange, arguments, reason = REFUSALS[what]
    arrange(small)
    before = _own_files(small.project)
    done = small.update(*arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("template: ")
    assert reason in done.stderr
    assert _own_files(small.project) == before
    if what not in {"no git", "unborn"}:
        assert git(small.project, "branch", "--show-current") == "main\n"


def test_what_would_come_can_be_seen_first(tmp_path: Path) -> None:
    """Shown as a difference; nothing is changed."""
    small = Small(tmp_path, {"a.txt": b"a\n"})
    small.publish({"a.txt": b"b\n"})
    before = _own_files(small.project)
    done = small.update("--diff")
    assert done.returncode == 0
    assert "-a\n+b\n" in done.stdout
    assert _own_files(small.project) == before


def _own_files(project: Path) -> dict[str, bytes]:
    return {path: content for path, content in files_of(project).items() if not path.startswith((".git/", ".cache/"))}


def test_check_says_how_far_behind(tmp_path: Path) -> None:
    """Exit code 1 when there is something newer, so that a schedule can ask."""
    small = Small(tmp_path, {"a.txt": b"a\n"})
    assert small.update("--check").returncode == 0
    small.publish({"a.txt": b"b\n"})
    done = small.update("--check")
    assert done.returncode == 1
    assert "1 commits behind" in done.stdout


def test_a_folder_of_a_repository_is_updated_as_well(tmp_path: Path) -> None:
    """What lies beside it in the repository is not touched."""
    small = Small(tmp_path, {"a.txt": as_bytes(text("a")), "b/c.txt": b"c\n"})
    small.publish({"a.txt": as_bytes(["newer", *text("a")]), "b/c.txt": b"d\n", "b/e.txt": b"e\n"})
    whole = tmp_path / "whole"
    shutil.rmtree(small.project / ".git")
    shutil.copytree(small.project, whole / "services" / "small")
    (whole / "a.txt").write_text("not of the template\n")
    begin(whole)
    small.project = whole / "services" / "small"
    done = small.update()
    assert done.returncode == 0, done.stdout + done.stderr
    assert (small.project / "a.txt").read_text().startswith("newer\n")
    assert (small.project / "b" / "e.txt").read_text() == "e\n"
    assert (whole / "a.txt").read_text() == "not of the template\n"
    assert sorted(path.name for path in whole.iterdir()) == [".git", "a.txt", "services"]


def test_the_record_says_commit_and_address(history: Path, tmp_path: Path) -> None:
    """Read from the clone's own files: also from a worktree and from packed references, without a token, and not from a path."""
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--shared", str(history), str(clone))
    head = git(clone, "rev-parse", "HEAD").strip()
    assert checked_out(clone) == (head, "")
    record = json.loads((by_command(clone, tmp_path / "out") / ".cruft.json").read_text())
    assert (record["commit"], record["template"]) == (head, "")
    git(clone, "remote", "set-url", "origin", "https://somebody:token@git.example.com/team/template.git")
    assert checked_out(clone) == (head, "https://git.example.com/team/template.git")
    git(clone, "remote", "set-url", "origin", "git@git.example.com:team/template.git")
    git(clone, "pack-refs", "--all")
    assert checked_out(clone) == (head, "git@git.example.com:team/template.git")
    git(clone, "worktree", "add", "--quiet", "--detach", str(tmp_path / "tree"))
    assert checked_out(tmp_path / "tree") == (head, "git@git.example.com:team/template.git")
    shutil.rmtree(clone / ".git")
    assert checked_out(clone) == (None, "")


@pytest.mark.slow
def test_a_template_says_what_it_is_baked_by(tmp_path: Path) -> None:
    """Its own lock is installed, once, into the project's cache, which git ignores; without one it is said."""
    small = Small(tmp_path, {"a.txt": b"a\n", ".gitignore": b".cache/\n"})
    small.publish({"a.txt": b"b\n", ".gitignore": b".cache/\n"})
    refused = small.update(baked_by="")
    assert refused.returncode == 1
    assert "TEMPLATE_PYTHON" in refused.stderr
    (small.template / "requirements").mkdir()
    shutil.copy(ROOT / "requirements" / "bake.txt", small.template / "requirements" / "bake.txt")
    commit(small.template)
    done = small.update(baked_by="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (small.project / "a.txt").read_text() == "b\n"
    assert git(small.project, "status", "--porcelain") == ""
    assert len(list((small.project / ".cache" / "template").glob("python-*/bin/python"))) == 1


def test_cruft_knows_the_project_too(history: Path, tmp_path: Path) -> None:
    """A project baked by it, and one baked without: checked, compared and updated, and nothing is rejected."""
    newer = tmp_path / "template"
    git(tmp_path, "clone", "--quiet", "--shared", str(history), str(newer))

    def cruft(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("cruft")), *arguments]
        environment = {
            **os.environ,
            "HOME": str(tmp_path),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment
        )

    made = cruft(tmp_path, "create", str(newer), "--no-input", "--output-dir", str(tmp_path / "made"))
    assert made.returncode == 0, made.stdout + made.stderr
    plain = by_command(newer, tmp_path / "plain")
    record = json.loads((plain / ".cruft.json").read_text())
    (plain / ".cruft.json").write_text(json.dumps({**record, "template": str(newer)}))
    projects = [begin(project) for project in (next((tmp_path / "made").iterdir()), plain)]
    for project in projects:
        assert cruft(project, "check").returncode == 0
        assert cruft(project, "diff", "--exit-code").stdout == ""
    with (newer / TEMPLATE_FOLDER / "CONTRIBUTING.md").open("a") as file:
        file.write("\nNewer.\n")
    commit(newer, "newer")
    for project in projects:
        assert cruft(project, "check").returncode == 1
        updated = cruft(project, "update", "--skip-apply-ask")
        assert updated.returncode == 0, updated.stdout + updated.stderr
        assert (project / "CONTRIBUTING.md").read_text().endswith("\nNewer.\n")
        assert [path for path in _own_files(project) if path.endswith(".rej")] == []
        assert json.loads((project / ".cruft.json").read_text())["commit"] == git(newer, "rev-parse", "HEAD").strip()


def test_the_update_command_needs_nothing_but_python_and_git() -> None:
    """It runs before anything is installed, in a workflow that has only these."""
    import ast

    for path in (SOURCE / "ops" / "template_update").glob("*.py"):
        tree = ast.parse(path.read_text())
        modules = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {name.split(".")[0] for name in modules} <= sys.stdlib_module_names | {"ops"}, path
