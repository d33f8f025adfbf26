"""One production stack for all tests here, put up over SSH as a first deploy does it.

Run by `make test-containers`, with an engine. COMPOSE_OVERRIDES names Compose files of one's own, for machines that have
other images under these names.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.containers.engine import run
from tests.containers.load import Load
from tests.containers.server import ROOT, Server, server

#: An answer to everything, and always the wrong one: listens at once, and is never healthy.
WRONG = (
    "import http.server as h\n"
    "class A(h.BaseHTTPRequestHandler):\n"
    "    def do_GET(self): self.send_error(500)\n"
    "    do_POST = do_GET\n"
    "h.ThreadingHTTPServer(('0.0.0.0', 8000), A).serve_forever()\n"
)


@dataclass
class Versions:
    """Images of the application. All come from this checkout; the broken ones after the second version."""

    first: str
    second: str
    broken_api: str
    broken_worker: str
    broken_migration: str
    backup: str


def newest_migration() -> str:
    """The newest of core."""
    return max(path.name[: len("core_0000")] for path in (ROOT / "migrations/versions/core").glob("core_*.py"))


def migration(number: str, statement: str) -> str:
    """A line of a Dockerfile that adds a migration."""
    text = (
        f"from alembic import op\\nrevision = 'core_{number}'\\ndown_revision = '{newest_migration()}'\\n"
        f"branch_labels = depends_on = None\\ndef upgrade(): op.execute('{statement}')\\ndef downgrade(): pass\\n"
    )
    return f'RUN printf "{text}" > /srv/migrations/versions/core/core_{number}_tried.py\n'


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as a person has prepared it."""
    run("docker", "version")
    with server(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture(scope="session")
def versions(machine: Server) -> Versions:
    """What is deployed here."""
    first, backup = machine.build()
    start = f"FROM {machine.name}:app\nUSER 0\n"
    end = "USER 10001:10001\n"
    # Its table is additive: the first version runs on it, while the second comes and after it has gone.
    tag = f"{machine.name}:second"
    second = machine.image(start + migration("9001", "CREATE TABLE tried (id int)") + end, "--tag", tag)
    newer = f"FROM {tag}\nUSER 0\n"
    wrong = WRONG.replace("\n", "\\n")
    health = 'HEALTHCHECK --interval=1s --retries=3 CMD ["python", "-c", "import urllib.request as r; r.urlopen(\'http://127.0.0.1:8000/health\')"]\n'
    return Versions(
        first=first,
        second=second,
        broken_api=machine.image(
            newer + f'RUN printf "{wrong}" > /srv/wrong.py\n' + end + health + 'CMD ["python", "/srv/wrong.py"]\n'
        ),
        broken_worker=machine.image(newer + "RUN echo 'raise RuntimeError(\"broken\")' >> /srv/app/worker.py\n" + end),
        broken_migration=machine.image(newer + migration("9002", "SELECT 1/0") + end),
        backup=backup,
    )


@pytest.fixture(scope="session")
def live(machine: Server, versions: Versions) -> Server:
    """The server with the first version live."""
    done = machine.ship(versions.first, versions.backup)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{machine.logs()}"
    return machine


@pytest.fixture
def load(live: Server) -> Iterator[Load]:
    """Constant load for the length of the test's body, begun."""
    with Load(live.url, live.authority) as made:
        yield made
