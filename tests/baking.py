"""How the tests bake: in process with compiled templates kept, and by the real command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import variants
from cookiecutter import generate
from cookiecutter.main import cookiecutter
from cookiecutter.utils import create_env_with_context
from jinja2 import BytecodeCache, Environment
from jinja2.bccache import Bucket
from stage import TEMPLATE_FOLDER

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / TEMPLATE_FOLDER
QUESTIONS: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
CHOICES: dict[str, list[str]] = QUESTIONS["_choices"]
# The questions whose answers drop rooms; what the others change is a word here and there.
ROOM_OPTIONS = list(variants.OPTIONS)


def room_combinations() -> list[dict[str, str]]:
    """Every combination of the answers that drop rooms, and that makes sense."""
    return [dict(answers) for answers in variants.every()]


def name_of(answers: Mapping[str, str]) -> str:
    """A readable test id: the answers that are not the default."""
    special = [f"{k}={v}" for k, v in answers.items() if v != (CHOICES[k][0] if k in CHOICES else QUESTIONS.get(k))]
    return ",".join(special) or "default"


class _Memory(BytecodeCache):
    """Compiled templates, kept between bakes: more than half of a bake is compiling."""

    def __init__(self) -> None:
        self.compiled: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self.compiled:
            bucket.bytecode_from_string(self.compiled[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self.compiled[bucket.key] = bucket.bytecode_to_string()


_MEMORY = _Memory()


def _remembering_env(context: dict[str, Any]) -> Environment:
    environment: Environment = create_env_with_context(context)
    environment.bytecode_cache = _MEMORY
    return environment


@contextlib.contextmanager
def _remembered() -> Iterator[None]:
    original = generate.create_env_with_context
    generate.create_env_with_context = _remembering_env
    try:
        yield
    finally:
        generate.create_env_with_context = original


def bake(template: Path, output: Path, **answers: str) -> Path:
    """Bake in process without asking, and return the new project's folder."""
    output.mkdir(parents=True, exist_ok=True)
    with _remembered(), contextlib.redirect_stdout(io.StringIO()):
        project = cookiecutter(
            str(template),
            no_input=True,
            extra_context=answers,
            output_dir=str(output),
            config_file=str(_config(output)),
        )
    return Path(project)


def _config(output: Path) -> Path:
    """A configuration of the tests' own: nobody's defaults come in, no replay goes to anybody's home."""
    folder = output.parent / f".{output.name}-config"
    folder.mkdir(exist_ok=True)
    config = folder / "config.yaml"
    config.write_text(
        json.dumps({"cookiecutters_dir": str(folder / "templates"), "replay_dir": str(folder / "replay")})
    )
    return config


def command_line(
    template: Path, output: Path, *arguments: str, python: str = sys.executable, stdin: str | int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the real `cookiecutter` command, with a home and a temporary folder of its own.

    Args:
        template: its folder.
        output: where to bake.
        arguments: of the command line.
        python: that runs it.
        stdin: what is typed, or a terminal.
    """
    output.mkdir(parents=True, exist_ok=True)
    home = output.parent / f".{output.name}-home"
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home), "COLUMNS": "200"}
    environment.pop("COOKIECUTTER_CONFIG", None)
    return subprocess.run(
        [python, "-m", "cookiecutter", str(template), "--output-dir", str(output), *arguments],
        capture_output=True,
        text=True,
        input=stdin if isinstance(stdin, str) else None,
        stdin=None if isinstance(stdin, str) else subprocess.DEVNULL if stdin is None else stdin,
        cwd=output,  # in this one, our extension would be found before the template's
        env=environment,
        timeout=120,
    )


def files_of(project: Path) -> dict[str, bytes]:
    """Every file by its path from the project's root."""
    return {
        path.relative_to(project).as_posix(): path.read_bytes()
        for path in sorted(project.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def modes_of(project: Path) -> dict[str, int]:
    """Every file's and folder's permission bits, by its path."""
    return {path.relative_to(project).as_posix(): path.lstat().st_mode & 0o7777 for path in sorted(project.rglob("*"))}


def text_files_of(project: Path) -> dict[str, str]:
    """Every file that is text."""
    texts = {}
    for path, content in files_of(project).items():
        with contextlib.suppress(UnicodeDecodeError):
            texts[path] = content.decode()
    return texts
