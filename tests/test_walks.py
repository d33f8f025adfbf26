"""Somebody who has never seen the repository types what its documents print, and gets where they say.

Each walk takes its commands from the document itself, so a document that is wrong makes it red. What else is printed is run elsewhere: the targets of a
project's README by test_baked_project.py, the update by test_updates.py, the runbook by the project's own tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import baking
import pytest
from baking import ROOT
from formats import blocks
from projects import block, run_steps
from running import environment, python_version, variables
from stage import stage

pytestmark = pytest.mark.slow

PERSON = {
    "GIT_AUTHOR_NAME": "A Person",
    "GIT_AUTHOR_EMAIL": "person@example.com",
    "GIT_COMMITTER_NAME": "A Person",
    "GIT_COMMITTER_EMAIL": "person@example.com",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


@dataclass
class Walker:
    """A person in a project, at a second terminal.

    Attributes:
        project: its folder.
        extra: what is set in the terminal: the environment that the tests share, and a name for git.
        url: where `make dev` has said that the service is.
    """

    project: Path
    extra: dict[str, str]
    url: str = ""

    def types(self, *steps: str) -> str:
        """Type commands, and return what they wrote."""
        return run_steps(list(steps), self.project, self.extra)

    def follows(self, page: str, section: str, kind: str = "bash") -> str:
        """Type the block of a page."""
        return self.types(*block(self.project / page, section, kind).commands)

    def asks(self, path: str) -> str:
        """What the service answers."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:  # noqa: S310  # our own address
            return str(answer.read().decode())


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project by the template's README, from a clone, as far as its `cd`."""
    clone = stage(tmp_path_factory.mktemp("walk") / "template")
    shutil.copy2(ROOT / "Makefile", clone)
    # With their times: make must see that what is installed is newer.
    shutil.copytree(ROOT / "requirements", clone / "requirements")
    (clone / ".venv").symlink_to(sys.prefix)
    steps, _ = at_the_desk()
    written = run_steps(["\n".join([*steps, "pwd"])], clone, PERSON)
    return Path(written.splitlines()[-1])


def at_the_desk() -> tuple[list[str], list[str]]:
    """What the template's README has one type: in the clone, and then in the project."""
    typed = block(ROOT / "README.md", "Use it").commands
    (end,) = [number for number, step in enumerate(typed, 1) if step.startswith("cd ")]
    return typed[:end], typed[end:]


@pytest.fixture(scope="module")
def walker(baked: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walker]:
    """The project as its README starts it; it runs as long as these tests."""
    _, steps = at_the_desk()
    (baked / ".venv").symlink_to(environment(baked, print))
    walker = Walker(baked, PERSON)
    own = block(baked / "README.md", "Start").commands
    assert [step.split("#")[0].split() for step in steps[-len(own) :]] == [step.split("#")[0].split() for step in own]
    walker.types(*steps[:-1])
    log = tmp_path_factory.mktemp("dev") / "log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            ["bash", "-c", steps[-1]],
            cwd=baked,
            env={**variables(baked), **PERSON},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:

        def started() -> bool:
            assert running.poll() is None, log.read_text()
            found = re.search(r"(http://\S+)  the service", log.read_text())
            walker.url = found[1] if found else ""
            return bool(found)

        wait_until("make dev says where the service is", started, 120)
        yield walker
    finally:
        os.killpg(running.pid, signal.SIGINT)
        running.wait(60)


def test_the_first_page_tries_it_first() -> None:
    """What its block says is what test_baked_project.py and continuous integration run."""
    assert [step.split("#")[0].strip() for step in block(ROOT / "README.md", "Try it").commands] == [
        "make demo",
        "make test",
    ]
    for target in ("demo", "test"):
        shown = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert {"demo": "tools/demo.py", "test": "pytest"}[target] in shown


def test_it_runs(walker: Walker) -> None:
    """Baked and started, it answers through nginx, and its first page is its description."""
    assert json.loads(walker.asks("/health/ready"))["status"] == "healthy"
    assert "Quokka Radar" in walker.asks("/docs")


def test_a_feature_is_added_changed_and_deleted(walker: Walker, tmp_path: Path) -> None:
    """As docs/features.md says, beside the running service, which serves it; afterwards nothing is left."""
    page = "docs/features.md"
    begin, try_it = block(walker.project / page, "Begin one").commands
    walker.types(begin)
    change = tmp_path / "change.diff"
    change.write_text(block(walker.project / page, "Change it", "diff").text)
    walker.types(f"git apply {change}")
    assert block(walker.project / page, "Change it").commands[-1] == try_it
    written = walker.follows(page, "Change it")
    assert re.search(r"\b[1-9]\d* passed", written)
    (migration,) = walker.project.glob("migrations/versions/billing/*add_a_note.py")
    assert "op.add_column('billing_items'" in migration.read_text().replace('"', "'")
    wait_until("the running service shows the change", lambda: "note" in properties(walker, "BillingItemIn"))
    (before,) = set(re.findall(r"`(make take-back feature=\S+)`", (walker.project / page).read_text()))
    walker.types(before)
    walker.follows(page, "Delete one")
    assert walker.types("git status --porcelain -- . ':!.venv'") == ""


def properties(walker: Walker, schema: str) -> set[str]:
    """What the service takes, as it describes itself."""
    schemas = json.loads(walker.asks("/openapi.json"))["components"]["schemas"]
    return set(schemas.get(schema, {}).get("properties", {}))


def test_a_backup_is_made_and_restored(walker: Walker) -> None:
    """As docs/backup.md says, beside the running service: what was destroyed is there again, and the service with it."""
    make, backup, destroy, restore, look = block(walker.project / "docs/backup.md", "Try it").commands
    walker.types(make)
    precious = walker.types(look)
    assert "(1 row)" in precious
    walker.types(backup, destroy)
    with pytest.raises(AssertionError, match="precious"):
        walker.types(look)
    walker.types(restore)
    assert walker.types(look) == precious
    wait_until("the service is well again", lambda: json.loads(walker.asks("/health/ready"))["status"] == "healthy")


def wait_until(what: str, holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait, and say what was awaited in vain, and what came instead."""
    ends, last = time.monotonic() + seconds, ""
    while True:
        try:
            if holds():
                return
        except OSError as error:
            last = f": {error}"
        assert time.monotonic() < ends, f"not within {seconds:g} s: {what}{last}"
        time.sleep(0.2)


# What a key's holder meets instead of a machine: the words of each command are noted; `status` goes through the real door, as sshd would force it.
SSH = """\
#!/usr/bin/env bash
set -euo pipefail
printf '%s\\n' "$*" >>"$WALK/ssh"
case "$*" in
*' deploy@'*' status') SSH_ORIGINAL_COMMAND=status exec "$WALK/door.sh" prod "$WALK/server" ;;
*' bash -c '*) cat >"$WALK/door.sh"; chmod +x "$WALK/door.sh"; printf '%s' "${*: -1}" >"$WALK/provision" ;;
esac
"""
SCP = '#!/usr/bin/env bash\ncp "$1" "$WALK/server/${2##*/}"\n'
CURL = '#!/usr/bin/env bash\nprintf "%s\\n" "$*" >>"$WALK/curl"\n'


def test_a_host_is_prepared_and_looked_at(template: Path, tmp_path: Path, walker: Walker) -> None:
    """As docs/deploy.md says, as far as it goes without a machine; tests/containers goes on from there, with an engine."""
    project = baking.bake(template, tmp_path / "out", python_version=python_version())
    venv = walker.project / ".venv"
    (project / ".venv").symlink_to(venv.readlink())
    for lock in (project / "requirements").glob("*.txt"):
        os.utime(lock, (0, 0))  # as old as what is installed
    walk, programs = tmp_path / "walk", tmp_path / "programs"
    (walk / "server").mkdir(parents=True)
    programs.mkdir()
    for name, text in (("ssh", SSH), ("scp", SCP), ("curl", CURL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{variables(project)['PATH']}"
    person = Walker(project, {"WALK": str(walk), "PATH": path, "DOMAIN": "service.example.com", "ENV": "prod"})
    person.types("make setup")
    desk = (project / ".env").read_text()
    page = project / "docs" / "deploy.md"

    person.follows("docs/deploy.md", "1. A key for deploys", "sh")
    assert (project / "deploy-prod.key").stat().st_mode & 0o777 == 0o600
    assert person.types("git init --quiet; git status --porcelain --ignored deploy-prod.key").startswith("!!")

    person.follows("docs/deploy.md", "2. Prepare the machine", "sh")
    asked = [
        "bash",
        "-c",
        'eval "set -- $(<"$0")"; printf "%s\\0" "$@"',
        str(walk / "provision"),
    ]  # as the host's shell reads it
    sent = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    public = (project / "deploy-prod.key.pub").read_text().split()[:2]
    assert sent[:2] == ["bash", "-c"]
    assert sent[2] == (project / "ops/scripts/provision.sh").read_text().rstrip("\n")
    assert sent[4:] == ["--here", "example-service", "prod", " ".join(public)]
    assert (walk / "door.sh").read_bytes() == (project / "ops/scripts/door.sh").read_bytes()

    fresh, bring = (each.commands for each in blocks(page.read_text()) if each.section == "3. The settings")
    person.types(*fresh)
    with pytest.raises(AssertionError, match="AI_ALLOW_OFFLINE"):
        person.types(bring[0])
    edited = {"DOMAIN": "service.example.com", "ACME_EMAIL": "team@example.com", "AI_ALLOW_OFFLINE": "true"}
    text = page.read_text()
    assert [name for name in edited if name not in text] == []
    kept = [line for line in (project / ".env").read_text().splitlines() if line.partition("=")[0] not in edited]
    (project / ".env").write_text("\n".join([*kept, *(f"{k}={v}" for k, v in edited.items())]) + "\n")
    person.types(*bring)
    assert (walk / "server" / ".env").read_text() == (project / ".env").read_text() != desk
    (back,) = re.findall(r"`(mv \.env\.mine \.env)`", text)
    person.types(back)
    assert (project / ".env").read_text() == desk

    person.follows("docs/deploy.md", "4. Leave to fetch the images", "sh")
    (walk / "server" / "compose.yaml").write_text("name: example-service\nservices: {}\n")
    person.follows("docs/deploy.md", "7. Live", "sh")
    assert "https://service.example.com/health/ready" in (walk / "curl").read_text()
    said = (walk / "ssh").read_text()
    assert "/srv/example-service/.env" in said
    assert "docker login" in said
