"""The fault matrix: which neighbours fail, how, and what a client is answered then.

What clients do stands in `operations/`, a module for each feature with `OPERATIONS`: the matrix has a column for each of
them, and the table in `docs/architecture.md` is made of what they promise: `make generate` writes it, and a test compares.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType

import httpx

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
# Between these two lines of it stands the table.
BEGIN = "<!-- made from tests/system by `make generate` -->\n"
END = "<!-- as far as here -->\n"

# Row -> the parts of the stack behind it.
NEIGHBOURS: Mapping[str, tuple[str, ...]] = {
    "PostgreSQL": ("postgres",),
    "Redis": ("cache", "broker"),
    "S3": ("storage",),
    "AI provider": ("ai",),
    "message provider": ("mail",),
}
FAULTS = ("dead", "hanging", "slow")
RECOVERY_SECONDS = 10.0

# Shorter than by default, so that a test does not wait; what stands in the document is about the names.
ENVIRONMENT = {
    "HTTP_REQUEST_SECONDS": "8",
    "DATABASE_CONNECT_SECONDS": "1.5",
    "DATABASE_STATEMENT_SECONDS": "1.5",
    "STORAGE_TIMEOUT_SECONDS": "1",
    "STORAGE_DEADLINE_SECONDS": "2.5",
    "AI_EMBEDDING_PROVIDER": "openai",
    "AI_OPENAI_API_KEY": "nobody-looks-at-it",
    "AI_TIMEOUT_SECONDS": "2",
    "AI_CONNECT_SECONDS": "1",
    "AI_MAX_RETRIES": "1",
    "AI_CIRCUIT_SECONDS": "2",
    "MESSAGES_MODE": "live",
    "MESSAGES_FROM_ADDRESS": "service@example.com",
    "MESSAGES_SMTP_HOST": "127.0.0.1",
    "MESSAGES_SMTP_TLS": "none",
    "MESSAGES_TIMEOUT_SECONDS": "2",
    "RATE_LIMIT": "100000r/m",
    "RATE_LIMIT_BURST": "10000",
    "RATE_LIMIT_SIGN_IN": "100000r/m",
    "RATE_LIMIT_SIGN_IN_BURST": "10000",
}
# The longest that a client may wait: the deadline of the part that fails, with the time to give it up, on a machine that
# is busy with other tests.
SECONDS: Mapping[str, Mapping[str, float]] = {
    "PostgreSQL": {"dead": 4, "hanging": 8, "slow": 9},
    "Redis": {"dead": 7, "hanging": 7, "slow": 7},
    "S3": {"dead": 7, "hanging": 7, "slow": 7},
    "AI provider": {"dead": 7, "hanging": 7, "slow": 7},
    "message provider": {"dead": 7, "hanging": 7, "slow": 7},
}
# What bounds it in production.
BOUND: Mapping[str, str] = {
    "PostgreSQL": "`DATABASE_CONNECT_SECONDS` for a new connection, `DATABASE_STATEMENT_SECONDS` + 1 on an open one; from the third failure on at once",
    "Redis": "half a second for each look into the cache, 3 s for sending a task; after some failures at once",
    "S3": "`STORAGE_DEADLINE_SECONDS`; from the third failure on at once",
    "AI provider": "the deadline of the route, at most `AI_TIMEOUT_SECONDS` for each attempt; after `AI_CIRCUIT_FAILURES` at once",
    "message provider": "nobody waits for it: messages are queued",
}


def answer_of(response: httpx.Response) -> str:
    """An answer in a word: the status, and the code of a problem."""
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        return f"{response.status_code} {response.json()['code']}"
    return str(response.status_code)


@dataclass(frozen=True)
class Operation:
    """Something that a client does.

    Attributes:
        name: heads its column.
        what: of it, for the document.
        run: does it, and says the answer in a word.
        usual: the answer when nothing fails.
        promised: the answer when something does, by (neighbour, fault) where it is another one.
    """

    name: str
    what: str
    run: Callable[["World"], str]
    usual: str
    promised: Mapping[tuple[str, str], str] = field(default_factory=lambda: MappingProxyType({}))

    def expected(self, neighbour: str, fault: str) -> str:
        """What a client is answered while this fails."""
        return self.promised.get((neighbour, fault), self.usual)


@dataclass
class World:
    """Who does it.

    Attributes:
        new_client: makes a client that comes from an address of its own.
        token: signs somebody in.
        health_token: shows what health knows.
        kept: what operations remember of each other.
    """

    new_client: Callable[[], httpx.Client]
    token: str
    health_token: str
    kept: dict[str, object] = field(default_factory=dict)


def down(answer: str, *neighbours: str) -> dict[tuple[str, str], str]:
    """The same answer to a neighbour that is dead and to one that hangs."""
    return {(neighbour, fault): answer for neighbour in neighbours for fault in ("dead", "hanging")}


def health(world: World) -> str:
    """Readiness, and which parts are ill."""
    with world.new_client() as client:
        ready = client.get("/health/ready")
        details = client.get("/health/detailed", headers={"Authorization": f"Bearer {world.health_token}"}).json()
    ill = [name for name, part in sorted(details["parts"].items()) if part["status"] != "healthy"]
    return f"{ready.status_code} {details['status']}" + (f": {', '.join(ill)}" if ill else "")


HEALTH = Operation(
    "health",
    "`/health/ready`, and the parts that `/health/detailed` names",
    health,
    "200 healthy",
    {
        **down("503 unhealthy: database, migrations", "PostgreSQL"),
        **down("200 degraded: broker, cache, worker", "Redis"),
        **down("200 degraded: storage", "S3"),
    },
)


def modules() -> list[ModuleType]:
    """What clients do, a module for each feature."""
    folder = Path(__file__).parent / "operations"
    return [import_module(f"tests.system.operations.{path.stem}") for path in sorted(folder.glob("*.py"))]


def operations() -> list[Operation]:
    """The columns."""
    return [operation for module in modules() for operation in module.OPERATIONS] + [HEALTH]


def table() -> str:
    """Every neighbour, every way to fail, and every answer."""
    columns = operations()
    lines = [
        "| | " + " | ".join(column.name for column in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        "| **as usual** | " + " | ".join(column.usual for column in columns) + " |",
    ]
    for neighbour in NEIGHBOURS:
        rows: dict[tuple[str, ...], list[str]] = {}  # ways to fail that are answered alike share one
        for fault in FAULTS:
            cells = [(column.expected(neighbour, fault), column.usual) for column in columns]
            shown = tuple("as usual" if cell == usual else f"**{cell}**" for cell, usual in cells)
            rows.setdefault(shown, []).append(fault)
        lines += [f"| {neighbour} {', '.join(faults)} | " + " | ".join(shown) + " |" for shown, faults in rows.items()]
    lines += ["", "| column | is |", "|---|---|", *(f"| {column.name} | {column.what} |" for column in columns)]
    lines += ["", "| neighbour | longest wait for its 503 |", "|---|---|"]
    lines += [f"| {neighbour} | {bound} |" for neighbour, bound in BOUND.items()]
    return "\n".join(lines) + "\n"


def document(text: str) -> str:
    """`docs/architecture.md` with the table as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text()))
