"""What a bake costs: in a process that has cookiecutter imported, and as a command.

Goals are judged by the clock, because that is what somebody waits for; on a busy machine it measures the neighbours too.
Ratios are of processor seconds, hooks included, which suffer less from them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import baking
from cookiecutter.main import cookiecutter
from table import Row

GOAL_IN_PROCESS = 0.3
GOAL_COMMAND = 0.8
# Where the best-known template of this size has its tags: about one expression in 20 lines and one condition in 60.
LINES_PER_EXPRESSION = 20
LINES_PER_CONDITION = 60
HOOK = '''"""As many hooks begin."""

import os
import random
import shutil
import string
import sys
from pathlib import Path

PROJECT = Path.cwd().resolve()

if "{{ cookiecutter.use_extras }}" not in ("y", "n"):
    sys.exit(1)
'''


@dataclass(frozen=True)
class Cost:
    """Seconds: of this process and its children on the processor, and on the clock."""

    processor: float
    clock: float

    def __str__(self) -> str:
        return f"{self.clock:.2f} s on the clock, {self.processor:.2f} s of processor"


def measure(template: Path, folder: Path, *, quick: bool) -> list[Row]:
    """Bake this template and a plain one of its size in turn."""
    project = baking.bake(template, folder / "sample")
    plain = plain_template(folder / "plain", baking.files_of(project))
    copied = copied_template(folder / "copied", baking.files_of(project))
    commands: dict[str, Callable[[Path], object]] = {
        "in process": lambda out: _bake(template, out),
        "in process, plain": lambda out: _bake(plain, out),
        "in process, copied": lambda out: _bake(copied, out),
        "command": lambda out: baking.command_line(template, out, "--no-input").check_returncode(),
        "command, plain": lambda out: baking.command_line(plain, out, "--no-input").check_returncode(),
        "floor": lambda _: subprocess.run(
            [sys.executable, "-m", "cookiecutter", "--version"], check=True, capture_output=True
        ),
    }
    costs = _alternate(commands, folder / "out", rounds=3 if quick else 11)
    ours, plain_ours, copied_ours, command, plain_command, floor = costs.values()
    return [
        Row(
            f"bake in process, {len(baking.files_of(project))} files",
            "the same number of files and bytes, all rendered, two hooks",
            ours.processor / plain_ours.processor,
            f"{ours}; {plain_ours}",
            f"at most {GOAL_IN_PROCESS} s on the clock",
            ours.clock <= GOAL_IN_PROCESS,
        ),
        Row(
            f"bake in process, {len(baking.files_of(project))} files",
            "the same files copied folder by folder, no tag, no hook: the floor",
            ours.processor / copied_ours.processor,
            f"{ours}; {copied_ours}",
        ),
        Row(
            "bake by command line",
            "the same, by command line",
            command.processor / plain_command.processor,
            f"{command}; {plain_command}",
            f"at most {GOAL_COMMAND:.1f} s on the clock",
            command.clock <= GOAL_COMMAND,
        ),
        Row(
            "bake by command line",
            "`cookiecutter --version`, the floor",
            command.processor / floor.processor,
            f"{command}; {floor}",
        ),
    ]


def plain_template(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Make a template as most are: default delimiters, every file rendered, a hook before and one after."""
    questions = {"project_slug": "plain-service", "project_name": "Plain Service", "use_extras": "y"}
    (folder / "hooks").mkdir(parents=True)
    (folder / "cookiecutter.json").write_text(json.dumps(questions))
    for name in ("pre_gen_project.py", "post_gen_project.py"):
        (folder / "hooks" / name).write_text(HOOK)
    for path, content in files.items():
        target = folder / "{{cookiecutter.project_slug}}" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_with_tags(content))
    return folder


def copied_template(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Make a template of the same files that asks for nothing but the folder's name: the least cookiecutter does."""
    questions = {"project_slug": "copied-service", "_copy_without_render": ["*"]}
    folder.mkdir()
    (folder / "cookiecutter.json").write_text(json.dumps(questions))
    for path, content in files.items():
        target = folder / "{{cookiecutter.project_slug}}" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder


def _with_tags(content: bytes) -> str:
    """Text of the same length and lines as `content`, with plain tags here and there."""
    lines = []
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        text = line.replace("{", "(").replace("}", ")")
        if number % LINES_PER_CONDITION == 0:
            text = "{% if cookiecutter.use_extras == 'y' %}" + text + "{% endif %}"
        elif number % LINES_PER_EXPRESSION == 0:
            text = "{{ cookiecutter.project_name }}" + text
        lines.append(text)
    return "\n".join(lines) + "\n"


def _bake(template: Path, out: Path) -> None:
    """Without the compiled templates that the tests keep between bakes."""
    out.mkdir()
    config = out.with_suffix(".yaml")
    config.write_text(f"replay_dir: {json.dumps(str(out) + '-replay')}\n")
    with contextlib.redirect_stdout(io.StringIO()):
        cookiecutter(str(template), no_input=True, output_dir=str(out), config_file=str(config))


def _alternate(commands: Mapping[str, Callable[[Path], object]], folder: Path, rounds: int) -> dict[str, Cost]:
    """Median cost of each command, run in turn; one round before is not counted."""
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for index, (name, command) in enumerate(commands.items()):
            folder.mkdir()
            before, begin = os.times(), time.perf_counter()
            command(folder / f"{number}-{index}")
            clock, after = time.perf_counter() - begin, os.times()
            found[name].append(Cost(sum(after[:4]) - sum(before[:4]), clock))
            shutil.rmtree(folder)
    return {
        name: Cost(median(cost.processor for cost in costs[1:]), median(cost.clock for cost in costs[1:]))
        for name, costs in found.items()
    }
