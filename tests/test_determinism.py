"""A bake is a pure function of template and answers: no clock, no chance, no network, no machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import baking
import pytest
import stage
from baking import command_line, files_of, modes_of, name_of, room_combinations
from jinja2 import Environment
from stage import TEMPLATE_FOLDER

Combinations = list[tuple[dict[str, str], Path]]

ANSWERS = ["project_name=Söhne & 한글", "author=A << B", "example=documents"]

# A process of Python that cannot reach any address, where the kernel offers no namespace for that: as sitecustomize, also in hooks.
NO_SOCKETS = """
import sys
def deny(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"):
        raise OSError(f"a bake used the network: {event} {arguments}")
sys.addaudithook(deny)
"""


def other_pythons() -> list[str]:
    """Interpreters of other versions: on PATH, or installed beside the one that runs this."""
    names = [f"python3.{minor}" for minor in range(11, 20)]
    candidates = [path for name in names if (path := shutil.which(name))]
    beside = Path(sys.base_prefix).parent
    candidates += [str(path) for path in sorted(beside.glob("*/bin/python3"))]
    found: dict[tuple[int, int], str] = {sys.version_info[:2]: sys.executable}
    for candidate in candidates:
        try:
            said = subprocess.run(
                [candidate, "-c", "import sys, ssl, zlib; print(*sys.version_info[:2], sys.executable)"],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=30,
            )
        except OSError:
            continue
        if said.returncode == 0:
            major, minor, executable = said.stdout.strip().split(" ", 2)
            if (int(major), int(minor)) >= (3, 11):
                found.setdefault((int(major), int(minor)), executable)
    return [path for version, path in sorted(found.items()) if version != sys.version_info[:2]]


def baked(template: Path, output: Path, *, python: str = sys.executable) -> tuple[dict[str, bytes], dict[str, int]]:
    """Bake by the command line, and return contents and modes."""
    result = command_line(template, output, "--no-input", *ANSWERS, python=python)
    assert result.returncode == 0, result.stderr
    return files_of(output), modes_of(output)


@pytest.mark.parametrize("answers", room_combinations(), ids=name_of)
def test_two_bakes_are_the_same(bake: Callable[..., Path], answers: dict[str, str]) -> None:
    """Byte for byte, and bit for bit of the permissions."""
    first, second = bake(**answers), bake(**answers)
    assert len(files_of(first)) > 50
    assert files_of(first) == files_of(second)
    assert modes_of(first) == modes_of(second)


def test_the_surroundings_do_not_matter(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another folder, time zone, language, hash seed, user and age of the template's files: the same bake."""
    first = baked(template, tmp_path / "one")
    elsewhere = tmp_path / "else where"
    shutil.copytree(template, elsewhere, copy_function=shutil.copy)
    for name, value in {"TZ": "Asia/Seoul", "LC_ALL": "C", "PYTHONHASHSEED": "7", "USER": "somebody"}.items():
        monkeypatch.setenv(name, value)
    for path in elsewhere.rglob("*"):
        os.utime(path, (1, 1))
    assert baked(elsewhere, tmp_path / "two") == first


def test_another_python_bakes_the_same(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers decide, not the interpreter that happens to run cookiecutter."""
    pythons = other_pythons()
    if not pythons:
        pytest.skip("this machine has no second Python from 3.11 on")
    first = baked(template, tmp_path / "own")
    # Cookiecutter's packages are pure Python or fall back to it, so another interpreter can use this one's.
    monkeypatch.setenv("PYTHONPATH", sysconfig.get_path("purelib"))
    for number, python in enumerate(pythons):
        assert baked(template, tmp_path / str(number), python=python) == first, python


def namespace() -> list[str]:
    """What starts a command without any network interface, where that is permitted."""
    for prefix in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
            return prefix
    return []


def bake_alone(template: Path, folder: Path, prefix: list[str]) -> subprocess.CompletedProcess[str]:
    """Bake by command line behind the prefix, or where there is none with every socket of every Python refused."""
    (folder / "refusing").mkdir(parents=True)
    (folder / "refusing" / "sitecustomize.py").write_text("" if prefix else NO_SOCKETS)
    environment = {**os.environ, "HOME": str(folder), "TMPDIR": str(folder), "PYTHONPATH": str(folder / "refusing")}
    return subprocess.run(
        [*prefix, sys.executable, "-m", "cookiecutter", template, "--no-input", "--output-dir", folder, *ANSWERS],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment,
        timeout=120,
    )


def test_a_bake_needs_no_network(template: Path, tmp_path: Path) -> None:
    """In a network namespace without any interface where that is permitted, and with sockets refused."""
    for number, prefix in enumerate([namespace(), []]):
        result = bake_alone(template, tmp_path / str(number), prefix)
        assert result.returncode == 0, result.stderr


def test_a_bake_that_used_the_network_would_fail_there(template: Path, tmp_path: Path) -> None:
    """Even if what its hook asks is on this machine and answers."""
    asking = Path(shutil.copytree(template, tmp_path / "asking"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        hook = asking / "hooks" / "post_gen_project.py"
        ask = f"import socket\nsocket.create_connection({server.getsockname()!r}).close()\n"
        hook.write_text(hook.read_text().replace("import os\n", f"import os\n{ask}", 1))
        assert command_line(asking, tmp_path / "out", "--no-input").returncode == 0
        for number, prefix in enumerate([namespace(), []]):
            assert bake_alone(asking, tmp_path / str(number), prefix).returncode != 0


def test_every_python_file_is_its_source(template: Path, combinations: Combinations) -> None:
    """No answer reaches a line of Python: a file is as it is, or comes whole from its option's overlay."""
    source_folder = template / TEMPLATE_FOLDER
    for answers, project in combinations:
        overlays = [source_folder / ".rooms" / option / answer for option, answer in answers.items()]
        for path, content in files_of(project).items():
            if path.endswith(".py"):
                source = next((o / path for o in overlays if (o / path).exists()), source_folder / path)
                assert content == source.read_bytes(), path


def test_modes_are_those_of_the_source(template: Path, combinations: Combinations) -> None:
    """A script stays executable, and nothing else becomes so."""
    for _, project in combinations:
        for path in files_of(project):
            source = template / TEMPLATE_FOLDER / path
            assert (project / path).stat().st_mode == source.stat().st_mode, path


def test_the_staged_template_is_the_template(tmp_path: Path) -> None:
    """The copy that tests and demonstration bake from holds all that a bake reads."""
    staged = stage.stage(tmp_path / "staged")
    assert (staged / "cookiecutter.json").read_bytes() == (baking.ROOT / "cookiecutter.json").read_bytes()
    assert baking.bake(staged, tmp_path / "out").is_dir()


def test_only_what_holds_a_tag_is_compiled(monkeypatch: pytest.MonkeyPatch, bake: Callable[..., Path]) -> None:
    """Compiling is what a bake's time goes into: the path of a file that is copied costs none of it."""
    compiled = []
    compile_template = Environment.compile

    def counting(self: Environment, source: str, *arguments: Any, **options: Any) -> Any:
        compiled.append(source)
        return compile_template(self, source, *arguments, **options)

    monkeypatch.setattr(Environment, "compile", counting)
    bake(project_name="Counted << once")
    assert compiled
    assert [source for source in compiled if "<<" not in source] == []
