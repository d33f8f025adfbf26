"""The commands of the runbook do what they say: each block marked `bash` is run against the whole stack."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from devstack import Stack
from tests.system.conftest import Service

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = ROOT / "docs/runbook"


def blocks(page: Path) -> list[str]:
    """What may be run here; what needs the containers is marked `bash compose`, and read only by tests/ops."""
    return re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


PAGES = [page for page in sorted(RUNBOOK.glob("*.md")) if blocks(page) and page.name != "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_work(page: Path, stack: Stack, service: Service) -> None:
    """In the order of the page, in the project's folder, with what its index says to set first."""
    env = {
        **stack.env,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "URL": service.url,
        "HEALTH_TOKEN": service.health_token,
    }
    for block in blocks(page):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            check=False,
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{page.name}:\n{block}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_the_preparation_finds_the_files_of_the_makefile(tmp_path: Path) -> None:
    """With it, `docker compose` means the same project as `make up`; the values come from .env."""
    (preparation,) = blocks(RUNBOOK / "README.md")
    (tmp_path / "ops").symlink_to(ROOT / "ops")
    (tmp_path / ".env").write_text("DOMAIN=service.example.org\nHEALTH_TOKEN=secret\n")
    shown = subprocess.run(
        [
            "bash",
            "-euc",
            f'{preparation.replace("ENV=prod", "ENV=stage")}\nprintf "%s\\n" "$COMPOSE_FILE" "$URL" "$HEALTH_TOKEN"',
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    rooms = sorted(f"ops/compose/rooms/{path.name}" for path in (ROOT / "ops/compose/rooms").glob("*.yaml"))
    assert shown == [
        ":".join(["compose.yaml", *rooms, "ops/compose/stage.yaml"]),
        "https://service.example.org",
        "secret",
    ]


def test_a_command_that_fails_fails_the_page(tmp_path: Path, stack: Stack, service: Service) -> None:
    """The test above can fail."""
    page = tmp_path / "page.md"
    page.write_text('```bash\ncurl -fsS "$URL/nowhere"\necho hidden\n```\n')
    with pytest.raises(AssertionError, match="404"):
        test_the_commands_of_a_page_work(page, stack, service)
