"""A restore under the running service: yesterday's data is back, and nobody had to restart anything."""

import json
from uuid import uuid4

import httpx

from devstack import Stack
from tests.system.helpers import eventually

DATABASE = "app"


def note(stack: Stack, action: str) -> None:
    """Have something in the one table that every service has: its audit trail."""
    stack.sql(
        "INSERT INTO audit_log (id, action, subject, client, request_id, details)"  # noqa: S608  # a test's own word
        f" VALUES (gen_random_uuid(), '{action}', '', '', '', '{{}}')",
        database=DATABASE,
    )


def noted(stack: Stack, action: str, database: str = DATABASE) -> bool:
    """Whether it is there."""
    return stack.sql(f"SELECT count(*) FROM audit_log WHERE action = '{action}'", database=database) == "1\n"  # noqa: S608


def test_a_restore_under_the_running_service(stack: Stack, client: httpx.Client) -> None:
    """What was there at the backup is there again; what came later is kept aside; connections mend themselves."""
    early, late = (f"tests.{word}_{uuid4().hex}" for word in ("early", "late"))
    note(stack, early)
    backup = json.loads(stack.run("-m", "ops.backup", "dump").splitlines()[-1])["backup"]
    note(stack, late)

    said = stack.run("-m", "ops.backup", "restore", "dump", "--from", backup, "--force")

    eventually(lambda: client.get("/health/ready").status_code, lambda status: status == 200, "ready again")
    assert noted(stack, early)
    assert not noted(stack, late)
    kept = said.rpartition("DROP DATABASE ")[2].partition(";")[0]
    assert noted(stack, late, database=kept)
