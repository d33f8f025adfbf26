"""A restore under the running service: yesterday's people are back, and nobody had to restart anything."""

import json
from collections.abc import Callable

import httpx

from devstack import Stack
from tests.system.helpers import Person, assert_problem, eventually


def test_a_restore_under_the_running_service(
    stack: Stack, new_person: Callable[[], Person], client: httpx.Client
) -> None:
    """What was there at the backup is there again; what came later is kept aside; connections mend themselves."""
    early = new_person()
    backup = json.loads(stack.run("-m", "ops.backup", "run").splitlines()[-1])["backup"]
    late = new_person()

    said = stack.run("-m", "ops.backup", "restore", "--from", backup, "--force")

    eventually(lambda: client.get("/health/ready").status_code, lambda status: status == 200, "ready again")
    me = eventually(lambda: early.client.get("/api/v1/accounts/me"), lambda answer: answer.status_code == 200, "served")
    assert me.json()["email"] == early.email
    assert_problem(late.client.get("/api/v1/accounts/me"), 401)

    kept = said.rpartition("DROP DATABASE ")[2].partition(";")[0]
    assert stack.sql(f"SELECT count(*) FROM users WHERE email = '{late.email}'", database=kept) == "1\n"  # noqa: S608
