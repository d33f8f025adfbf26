"""Checks of every combination of answers, each done once for all combinations that look the same to it.

A check gets a folder with the files that it reads and no others. So two combinations in which those are equal have one
result, and a check that reads more than is said here fails for want of it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from baking import name_of
from running import variables

Combinations = list[tuple[dict[str, str], Path]]

PYTHON = ("app/**/*.py", "devstack/**/*.py", "load/**/*.py", "pyproject.toml")
WORKFLOWS = (".github/**/*",)
# Check -> what it reads, as pathlib's patterns say it. One that is not here reads the whole project.
READS: dict[str, tuple[str, ...]] = {
    "actionlint": WORKFLOWS,
    "amtool": ("ops/alertmanager/**/*",),
    "compose": ("compose.yaml", "ops/compose/**/*"),
    "compose-schema": ("compose.yaml", "ops/compose/**/*"),
    "dependabot-schema": WORKFLOWS,
    "dockerfile": ("Dockerfile",),
    "ecs": ("ops/deploy/ecs/**/*", ".env.example"),
    "env-example": (*PYTHON, ".env.example"),
    "imports": PYTHON,
    "kubernetes": ("ops/deploy/kubernetes/**/*", "ops/redis/**/*", ".env.example"),
    "kubernetes-rules": ("ops/deploy/kubernetes/**/*", "ops/prometheus/**/*"),
    "licences": ("requirements/*.txt",),
    "migrations": (*PYTHON, "alembic.ini", "migrations/**/*"),
    "nginx": ("ops/nginx/**/*",),
    "promtool": ("ops/prometheus/**/*",),
    "shell": ("ops/**/*.sh",),
    "workflow-schema": WORKFLOWS,
    "zizmor": WORKFLOWS,
}
# Done in other ways for all combinations: `types` and `secrets` here, what ruff does in test_variants.py.
ELSEWHERE = frozenset({"types", "secrets", "lint", "format"})

# Runs the project's own checks on other folders, as `make check` does on its own.
_DRIVER = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from ops.check.__main__ import checks, timed
known = {check.name: check for check in checks()}
def one(job):
    return timed(known[job[0]], Path(job[1]))[:2]
with ThreadPoolExecutor(os.cpu_count()) as pool:
    print(json.dumps(list(pool.map(one, json.load(sys.stdin)))))
"""
_KNOWN = """
import json
from ops.check.__main__ import checks
print(json.dumps({check.name: check.needs for check in checks()}))
"""


def python(project: Path, venv: Path, code: str, standard_input: str = "") -> str:
    """Run code in a project, with its environment, and return what it prints."""
    done = subprocess.run(
        [venv / "bin" / "python", "-B", "-c", code],
        cwd=project,
        env={**variables(project), "MYPY_CACHE_DIR": str(venv / "mypy-cache")},
        input=standard_input,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@functools.cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(project: Path, patterns: Iterable[str]) -> dict[str, str]:
    """What the files that match are, by their paths."""
    found = {path for pattern in patterns for path in project.glob(pattern) if path.is_file()}
    return {path.relative_to(project).as_posix(): _digest(path) for path in sorted(found)}


@dataclass
class Input:
    """What one or more combinations show to a check.

    Attributes:
        check: its name.
        project: of which combination the files are.
        paths: the files.
        names: of the combinations in which they are equal.
    """

    check: str
    project: Path
    paths: list[str]
    names: list[str] = field(default_factory=list)

    def laid_out(self, folder: Path) -> Path:
        """Copy the files to a folder."""
        for path in self.paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.project / path, folder / path)
        return folder


def inputs(combinations: Combinations, venv: Path) -> list[Input]:
    """Every check with each different state of what it reads, over all combinations in which the check applies."""
    seen: dict[tuple[str, str], Input] = {}
    known: dict[frozenset[str], dict[str, str]] = {}
    for answers, project in combinations:
        rooms = frozenset(contents(project, ["ops/check/rooms/*.py"]))
        if rooms not in known:
            known[rooms] = json.loads(python(project, venv, _KNOWN))
        for check, needs in known[rooms].items():
            if check in ELSEWHERE or next(project.glob(needs), None) is None:
                continue
            read = contents(project, READS.get(check, ("**/*",)))
            key = (check, hashlib.sha256(json.dumps(read).encode()).hexdigest())
            seen.setdefault(key, Input(check, project, list(read))).names.append(name_of(answers))
    return list(seen.values())


def findings(jobs: Iterable[tuple[str, Path]], project: Path, venv: Path) -> list[tuple[str, str]]:
    """What checks find in folders: what is wrong, and the tool that the machine lacks.

    Args:
        jobs: checks that the project has, and the folder for each.
        project: whose checks are run.
        venv: its environment; what the checks fetch is kept there.
    """
    wanted = [(check, str(folder)) for check, folder in jobs]
    (venv / "devstack").mkdir(exist_ok=True)
    for _, folder in wanted:
        Path(folder, ".devstack").symlink_to(venv / "devstack")
    return [(found, missing) for found, missing in json.loads(python(project, venv, _DRIVER, json.dumps(wanted)))]


def every_version(combinations: Combinations, folder: Path) -> int:
    """Copy each different file of all combinations to a folder once, and return how many there are."""
    versions: dict[str, list[str]] = {}
    for _, project in combinations:
        for path, digest in contents(project, ["**/*"]).items():
            known = versions.setdefault(path, [])
            if digest not in known:
                known.append(digest)
                target = folder / str(len(known)) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(project / path, target)
    return sum(map(len, versions.values()))


@dataclass
class Union:
    """Python files of several combinations together, none of which has two versions among them.

    What mypy finds in a module depends on its text, on mypy's configuration, and on the modules that it imports. So what it
    finds in the union it would find in each combination, and nothing else, as long as every module of the union that a
    combination's files import is in that combination too: `torn` says where it is not.

    Attributes:
        files: path -> content of each file.
        members: the combinations' own files.
        pyproject: a configuration of theirs; mypy's part is the same in all.
    """

    pyproject: Path
    configuration: str
    files: dict[str, Path] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    members: dict[str, frozenset[str]] = field(default_factory=dict)

    def takes(self, configuration: str, files: Mapping[str, str]) -> bool:
        """Whether these files fit in."""
        return configuration == self.configuration and all(
            self.digests.get(path, digest) == digest for path, digest in files.items()
        )

    def laid_out(self, folder: Path) -> Path:
        """Copy the files to a folder."""
        for path, source in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / path)
        shutil.copy(self.pyproject, folder / "pyproject.toml")
        return folder

    def torn(self) -> list[str]:
        """Imports of modules that the union has and the combination has not."""
        modules = {_module(path): path for path in self.files}
        imports = {path: _imports(source, path) & modules.keys() for path, source in self.files.items()}
        return [
            f"{name}: {path} imports {module}"
            for name, paths in self.members.items()
            for path in sorted(paths)
            for module in sorted(imports[path])
            if modules[module] not in paths
        ]


def unions(combinations: Combinations) -> list[Union]:
    """The fewest folders in which all Python files of all combinations are."""
    made: list[Union] = []
    for answers, project in combinations:
        files = contents(project, ["**/*.py"])
        pyproject = project / "pyproject.toml"
        tools = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]
        configuration = json.dumps([tools["mypy"], tools["pydantic-mypy"]])
        union = next((each for each in made if each.takes(configuration, files)), None)
        if union is None:
            union = Union(pyproject, configuration)
            made.append(union)
        for path, digest in files.items():
            union.files.setdefault(path, project / path)
            union.digests[path] = digest
        union.members[name_of(answers)] = frozenset(files)
    return made


def _module(path: str) -> str:
    return re.sub(r"(/__init__)?\.py$", "", path).replace("/", ".")


def _imports(source: Path, path: str) -> set[str]:
    """Every module that a file may import: `from a import b` is `a` and perhaps `a.b`."""
    package = path.removesuffix(".py").split("/")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            base = base if node.level else str(node.module)
            found.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return {".".join(parts[:end]) for name in found for parts in [name.split(".")] for end in range(1, len(parts) + 1)}
