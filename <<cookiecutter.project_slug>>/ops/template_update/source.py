"""The template's repository, and what it bakes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.template_update.git import Refused, environment, git, run

CACHE = Path(".cache") / "template"
LOCK = "requirements/bake.txt"  # what the template itself says it is baked by


@dataclass(frozen=True)
class Source:
    """A copy of the template's repository in the project's cache, as new as its origin."""

    address: str
    repository: Path

    @classmethod
    def fetch(cls, project: Path, address: str) -> Source:
        """Copy the repository, or what is new in it.

        Raises:
            Refused: it cannot be reached.
        """
        repository = (project / CACHE / "repository.git").absolute()
        if (repository / "shallow").exists():  # what an origin once did not have would be missing for ever
            shutil.rmtree(repository)
        if not repository.exists():
            repository.parent.mkdir(parents=True, exist_ok=True)
            git(repository.parent, "init", "--quiet", "--bare", repository.name)
        # Everything, so that a commit that no branch holds any more is likely to be there still.
        wanted = ("+HEAD:refs/template/newest", "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        where = str(Path(address).absolute()) if (project / address).exists() else address
        done = run(repository, "fetch", "--quiet", "--no-tags", "--update-shallow", where, *wanted)
        if done.returncode:
            raise Refused(f"no template answers at {address} ({done.stderr.strip()}); another one: TEMPLATE=address")
        return cls(address, repository)

    def commit(self, name: str) -> str:
        """The full name of a commit, branch or tag.

        Raises:
            Refused: there is none.
        """
        found = run(self.repository, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        if found.returncode:
            raise Refused(
                f"the template at {self.address} has no commit {name}. If its history was rewritten, or that copy of "
                "it is a shallow one, name the commit that is nearest to what you have: make template-update FROM=commit"
            )
        return found.stdout.strip()

    def newest(self) -> str:
        """The commit that its repository shows to visitors."""
        return self.commit("refs/template/newest")

    def count(self, older: str, newer: str) -> int:
        """How many commits lead from one to the other."""
        return int(git(self.repository, "rev-list", "--count", f"{older}..{newer}"))

    def title(self, commit: str) -> str:
        """A commit as one line."""
        return git(self.repository, "show", "--no-patch", "--format=%h of %cs: %s", commit).strip()

    def news(self, older: str, newer: str) -> list[str]:
        """The entries that have come into the template's changelog."""
        changes = run(self.repository, "diff", "--unified=0", older, newer, "--", "CHANGELOG.md").stdout
        return [line[1:] for line in changes.splitlines() if line.startswith("+- ")]

    def questions(self, commit: str) -> dict[str, Any]:
        """What the template asks at that commit: each question with its default, or its choices."""
        asked = json.loads(git(self.repository, "show", f"{commit}:cookiecutter.json"))
        return {name: default for name, default in asked.items() if not name.startswith("_")}

    def bake(self, commit: str, answers: dict[str, str], python: Path, folder: Path, *, ask: bool = False) -> Path:
        """Bake into a folder that is not there yet, and return the project in it.

        Args:
            commit: of the template.
            answers: to its questions; what is missing gets the default.
            python: an interpreter that has what the template is baked by.
            folder: for the template's files and the project.
            ask: put the questions to whoever sits there, the answers being the defaults.

        Raises:
            Refused: the template does not take the answers.
        """
        template, out = folder / "template", folder / "out"
        folder.mkdir(parents=True)
        git(folder, "clone", "--quiet", "--shared", "--no-checkout", str(self.repository), template.name)
        git(template, "-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", commit)
        # Nobody's own defaults come in, and no replay goes to anybody's home.
        config = folder / "config.yaml"
        config.write_text(json.dumps({"cookiecutters_dir": str(folder / "c"), "replay_dir": str(folder / "r")}))
        done = subprocess.run(
            [
                *(
                    str(python),
                    "-m",
                    "cookiecutter",
                    str(template),
                    "--output-dir",
                    str(out),
                    "--config-file",
                    str(config),
                ),
                *([] if ask else ["--no-input"]),
                *(f"{name}={answer}" for name, answer in answers.items()),
            ],
            cwd=folder,  # Python looks there first, and this project may have a module of the same name
            env=environment({"PYTHONDONTWRITEBYTECODE": "1"}),
            stdin=None if ask else subprocess.DEVNULL,
            stdout=None if ask else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
            raise Refused(f"the template does not bake at {commit[:7]}: {said[-1]}")
        return next(out.iterdir())

    def python(self, project: Path, commit: str) -> Path:
        """An interpreter with what the template is baked by, made once for each of its locks.

        `TEMPLATE_PYTHON` names another one.

        Raises:
            Refused: it cannot be made.
        """
        if named := os.environ.get("TEMPLATE_PYTHON"):
            return Path(named).absolute()
        lock = run(self.repository, "show", f"{commit}:{LOCK}")
        if lock.returncode:
            raise Refused(
                f"the template has no {LOCK} at {commit[:7]}; name a Python with cookiecutter: TEMPLATE_PYTHON=…"
            )
        digest = hashlib.sha256(sys.version.encode() + lock.stdout.encode()).hexdigest()[:12]
        home = (project / CACHE / f"python-{digest}").absolute()
        if not (home / ".made").exists():
            shutil.rmtree(home, ignore_errors=True)
            print("template: installing what it is baked by into .cache/template", file=sys.stderr)
            _install(home, lock.stdout)
            (home / ".made").touch()
        return home / "bin" / "python"


def _install(home: Path, lock: str) -> None:
    """Make a virtual environment of a lock, by uv where it is on PATH."""
    home.parent.mkdir(parents=True, exist_ok=True)
    requirements = home.with_suffix(".txt")
    requirements.write_text(lock)
    python, wanted = str(home / "bin" / "python"), ["--require-hashes", "--requirement", str(requirements)]
    if uv := shutil.which("uv"):
        commands = [
            [uv, "venv", "--quiet", "--no-config", "--python", sys.executable, str(home)],
            [uv, "pip", "install", "--quiet", "--python", python, *wanted],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", str(home)],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted],
        ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Refused(
                f"{Path(command[0]).name} cannot install what the template is baked by: {done.stderr.strip()}"
            )
