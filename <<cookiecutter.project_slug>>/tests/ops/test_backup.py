"""A backup comes back whole, and whatever is not whole is refused with the live data untouched."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import boto3
import httpx
import pytest
import structlog
from pydantic import SecretStr
from typer.testing import CliRunner

from app.core.settings import Storage
from devstack import Stack
from ops.backup import outcome, proof, retention
from ops.backup.__main__ import cli
from ops.backup.config import Keep
from ops.backup.drill.frame import Drill, DrillFailed
from ops.backup.drill.rehearsal import PARTS, Rehearsal
from ops.backup.dump import run, verify
from ops.backup.errors import BackupError, Busy, Damaged, Refused
from ops.backup.lock import only_one
from ops.backup.postgres import Address
from ops.backup.report import Success, write_metrics
from ops.backup.restore import dump as restoring
from ops.backup.retention import LetGo, Verdict
from ops.backup.state import State
from ops.backup.store import Store

ROWS = 300


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A database server and a store that these tests may ruin."""
    with Stack(tmp_path_factory.mktemp("servers"), PARTS) as stack:
        yield stack


@pytest.fixture
def rehearsal(servers: Stack) -> Iterator[Rehearsal]:
    """A filled database and an empty place in the store."""
    rehearsal = Rehearsal(servers, prefix=f"{uuid4()}/")
    for name in rehearsal.databases() - {"postgres"}:
        servers.sql(f'DROP DATABASE "{name}" WITH (FORCE)')
    servers.sql('CREATE DATABASE "app" OWNER "app"')
    rehearsal.fill(ROWS)
    yield rehearsal
    assert not [name for name in rehearsal.databases() if "_restore_" in name], "a half restored database was left"


def test_a_destroyed_database_comes_back_row_by_row(rehearsal: Rehearsal) -> None:
    """Nulls, bytes, vectors, unicode, sequences and all."""
    before = rehearsal.look()
    manifest = run(rehearsal.config).manifest
    assert manifest.details["contents"]["tables"]["rehearsal.thing"] == ROWS
    rehearsal.destroy()
    result = restoring.restore(rehearsal.config)
    assert result.kept is None
    assert rehearsal.look() == before
    assert sum(map(len, before.rows.values())) > ROWS


def test_comments_indexes_and_privileges_come_back(rehearsal: Rehearsal) -> None:
    """What is not a row counts too; privileges and settings of the database itself are in no dump."""
    servers, database = rehearsal.stack, rehearsal.database
    servers.sql(
        f'REVOKE CONNECT, TEMPORARY ON DATABASE "{database}" FROM PUBLIC;'
        f'ALTER DATABASE "{database}" SET work_mem = \'7MB\'; ALTER DATABASE "{database}" SET search_path = "$user", public;'
    )
    questions = (
        "SELECT obj_description('rehearsal.thing'::regclass)",
        "SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%hnsw%'",
        "SHOW work_mem",
        "SHOW search_path",
        "SELECT has_database_privilege('public', current_database(), 'CONNECT')",
        "SELECT tableowner FROM pg_tables WHERE tablename = 'thing'",
    )
    before = [servers.sql(question, database) for question in questions]
    assert before == ["What the drill looks for\n", "1\n", "7MB\n", '"$user", public\n', "f\n", "app\n"]
    run(rehearsal.config)
    rehearsal.destroy()
    restoring.restore(rehearsal.config)
    assert [servers.sql(question, database) for question in questions] == before


def test_a_live_database_is_refused_and_with_force_kept_aside(rehearsal: Rehearsal) -> None:
    """Nobody loses what was written since the backup by a slip of the finger."""
    then = rehearsal.look()
    run(rehearsal.config)
    rehearsal.write_later()
    now = rehearsal.look()
    with pytest.raises(Refused, match="live"):
        restoring.restore(rehearsal.config)
    assert rehearsal.look() == now

    kept = restoring.restore(rehearsal.config, force=True).kept
    assert rehearsal.look() == then
    assert kept is not None
    assert kept in rehearsal.databases()
    former = replace(rehearsal.config, dsn=Address(rehearsal.config.dsn).of(kept).dsn)
    aside = Rehearsal(rehearsal.stack)
    aside.config = former
    assert aside.look() == now


def test_sessions_do_not_hold_up_the_swap(rehearsal: Rehearsal) -> None:
    """The service stays connected while it happens, and is sent away."""

    async def scenario() -> bool:
        connection = await asyncpg.connect(rehearsal.config.dsn)
        await asyncio.to_thread(restoring.restore, rehearsal.config, None, force=True)
        return bool(connection.is_closed())

    run(rehearsal.config)
    assert asyncio.run(scenario())


HARMS: list[Callable[[Rehearsal, str], None]] = [
    Rehearsal.truncate_dump,
    Rehearsal.corrupt_dump,
    Rehearsal.empty_dump,
    Rehearsal.lose_dump,
    Rehearsal.lose_manifest,
]


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_damaged_backup_is_refused(rehearsal: Rehearsal, harm: Callable[[Rehearsal, str], None]) -> None:
    """Whatever happened to it in the store; also with force, and before anything is touched."""
    name = run(rehearsal.config).manifest.id
    rehearsal.write_later()
    live, databases = rehearsal.look(), rehearsal.databases()
    harm(rehearsal, name)
    with pytest.raises(Damaged):
        restoring.restore(rehearsal.config, name, force=True)
    with pytest.raises(Damaged):
        verify(rehearsal.config, name)
    assert rehearsal.look() == live
    assert rehearsal.databases() == databases


def test_a_dump_that_ends_early_is_refused_also_when_the_checksum_agrees(rehearsal: Rehearsal) -> None:
    """A fault of our own making: the list of contents at its beginning is whole, the data is not."""
    made, store = run(rehearsal.config).manifest, rehearsal.store()
    live = rehearsal.look()
    whole = b"".join(store.read(made.only))
    rehearsal.rewrite_manifest(made.id, parts=(store.write(made.only.name, [whole[: len(whole) // 2]]),))
    with pytest.raises(Damaged, match="end"):
        restoring.restore(rehearsal.config, made.id, force=True)
    assert rehearsal.look() == live


def test_a_wrong_key_is_refused_and_the_old_one_still_reads(rehearsal: Rehearsal) -> None:
    """Without its key a backup is nothing; after a rotation the former key opens it; another one of its name does not."""
    name = run(rehearsal.config).manifest.id
    live, databases = rehearsal.look(), rehearsal.databases()
    (key,) = rehearsal.config.keys.items()
    for keys, says in (({"new": os.urandom(32)}, "lacks the key"), ({key[0]: os.urandom(32)}, "the key is wrong")):
        with pytest.raises(Damaged, match=says):
            restoring.restore(rehearsal.with_(keys=keys), name, force=True)
    assert rehearsal.look() == live
    assert rehearsal.databases() == databases
    assert verify(rehearsal.with_(keys={"new": os.urandom(32), **rehearsal.config.keys}), name).id == name


def test_a_restore_that_is_not_what_was_counted_never_becomes_live(rehearsal: Rehearsal) -> None:
    """The manifest's counts come from the dump's own snapshot; one row less is one too few."""
    manifest = run(rehearsal.config).manifest
    live, databases = rehearsal.look(), rehearsal.databases()
    contents = manifest.details["contents"]
    tables = contents["tables"] | {"rehearsal.thing": ROWS + 1}
    rehearsal.rewrite_manifest(manifest.id, details={**manifest.details, "contents": {**contents, "tables": tables}})
    with pytest.raises(Damaged, match=f"{ROWS + 1} rows expected, {ROWS} found"):
        restoring.restore(rehearsal.config, force=True)
    assert rehearsal.look() == live
    assert rehearsal.databases() == databases


def test_the_newest_good_one_is_taken(rehearsal: Rehearsal) -> None:
    """A damaged newest backup does not hide the good one before it."""
    good = run(rehearsal.config).manifest.id
    broken = run(rehearsal.config).manifest.id
    rehearsal.truncate_dump(broken)
    assert restoring.restore(rehearsal.config, force=True).manifest.id == good


def test_a_database_that_cannot_be_reached_leaves_no_backup(rehearsal: Rehearsal) -> None:
    """A failed run adds nothing and deletes nothing."""
    run(rehearsal.config)
    wrong = rehearsal.with_(dsn=rehearsal.config.dsn.replace("app:", "app:not"))
    with pytest.raises(BackupError, match="could not connect"):
        run(wrong)
    assert len(rehearsal.store().backups("dump")) == 1


def test_a_store_that_cannot_be_reached_is_said(rehearsal: Rehearsal) -> None:
    """With its address, and what to look at."""
    nowhere = rehearsal.config.store.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "timeout_seconds": 1})
    with pytest.raises(BackupError, match=r"127\.0\.0\.1:9"):
        run(rehearsal.with_(store=nowhere))


def test_a_store_that_keeps_what_is_old_does_not_undo_the_backup(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that may write and not delete are good keys for backups: the run still makes one and says what it could not do."""

    def refuse(_self: Store, *_keys: str) -> None:
        raise BackupError("not allowed")

    names = [run(rehearsal.config).manifest.id for _ in range(2)]
    rehearsal.age({names[0]: 90})
    monkeypatch.setattr(Store, "delete", refuse)
    outcome = run(rehearsal.with_(keep={"dump": Keep(30, 1)}))
    assert outcome.let_go is None
    assert [backup.manifest.id for backup in rehearsal.store().backups("dump")] == [*names, outcome.manifest.id]


def test_the_password_is_on_no_command_line(rehearsal: Rehearsal) -> None:
    """Every user of the machine can read those; the tools get it by their environment."""
    plain, env = Address(rehearsal.config.dsn + "?sslmode=prefer").for_tools()
    assert env["PGPASSWORD"] == rehearsal.stack.env["DATABASE_PASSWORD"]
    assert env["PGPASSWORD"] not in plain
    assert plain.endswith("/app?sslmode=prefer")


def test_old_backups_go_and_the_last_good_ones_stay(rehearsal: Rehearsal) -> None:
    """Also in the store itself, not only in the plan; what a dead run left goes too."""
    names = [run(rehearsal.config).manifest.id for _ in range(4)]
    rehearsal.age(dict(zip(names, (90, 60, 40, 1), strict=True)))
    rehearsal.lose_manifest(names[0])
    outcome = run(rehearsal.with_(keep={"dump": Keep(30, 2)}))
    kept = [backup.manifest.id for backup in rehearsal.store().backups("dump")]
    assert kept == [names[3], outcome.manifest.id]
    assert sorted(stored.name.rpartition("/")[2] for stored in rehearsal.store().listing()) == sorted(
        f"{name}{end}" for name in kept for end in (".json", ".dump")
    )


def test_the_metrics_of_a_failed_run_keep_the_last_success(tmp_path: Path) -> None:
    """An alarm on the age of the last success must not lose its figure when a run fails."""
    file = tmp_path / "metrics" / "backup.prom"
    write_metrics(file, 1.5, Success(size=1000, kept=3))
    first = file.read_text()
    assert "backup_last_run_success 1.000" in first
    success = next(line for line in first.splitlines() if line.startswith("backup_last_success_timestamp_seconds "))
    write_metrics(file, 0.5, None)
    second = file.read_text()
    assert "backup_last_run_success 0.000" in second
    assert success in second
    assert [entry.name for entry in file.parent.iterdir()] == ["backup.prom"]


def test_the_commands(rehearsal: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an operator types them: what they print, and that a refusal is an exit code. One of them as a process."""
    metrics = tmp_path / "backup.prom"
    for name, value in (rehearsal.environment | {"BACKUP_METRICS_FILE": str(metrics)}).items():
        monkeypatch.setenv(name, value)

    def typed(*words: str) -> str:
        said = CliRunner().invoke(cli, words)
        if said.exception:
            raise said.exception
        return said.output

    made = rehearsal.child("-m", "ops.backup", "dump")
    assert made.returncode == 0
    event = json.loads(made.stdout.splitlines()[-1])
    assert event["event"] == "backup_made"
    assert event["bytes"] > 0
    assert event["backup"] in typed("list")
    assert "is whole" in typed("verify", "--from", event["backup"])
    with pytest.raises(Refused, match="FORCE=1"):
        typed("restore", "dump")
    assert "next:" in typed("restore", "dump", "--force")
    assert "nothing to clear up" in typed("restore", "undo")
    with pytest.raises(Damaged, match="no dump no-such"):
        typed("verify", "--from", "no-such")
    typed("dump")
    assert "backup_last_run_success 1" in metrics.read_text()
    rehearsal.destroy()
    with pytest.raises(BackupError, match="could not connect"):
        typed("dump")
    assert "backup_last_run_success 0" in metrics.read_text()


def test_a_proof_leaves_nothing_but_its_result(rehearsal: Rehearsal) -> None:
    """And fails where the newest backup cannot be restored, though the live database is in perfect order."""
    made = run(rehearsal.config).manifest
    live, databases = rehearsal.look(), rehearsal.databases()
    proven = proof.run(rehearsal.config).manifest
    assert proven.details["dump"]["backup"] == made.id
    assert proven.details["dump"]["rows"] == ROWS + 3
    contents = made.details["contents"]
    wrong = {**made.details, "contents": {**contents, "tables": {**contents["tables"], "rehearsal.thing": 1}}}
    rehearsal.rewrite_manifest(made.id, details=wrong)
    with pytest.raises(BackupError, match="rows expected"):
        proof.run(rehearsal.config)
    assert len(rehearsal.store().backups("proof")) == 1
    assert (rehearsal.look(), rehearsal.databases()) == (live, databases)


def test_one_proof_at_a_time(rehearsal: Rehearsal) -> None:
    """Of two schedulers the second one is told that it is busy, which is no failure."""
    run(rehearsal.config)
    with only_one(rehearsal.config, "proof"), pytest.raises(Busy, match="another run of proof"):
        proof.run(rehearsal.config)
    assert not rehearsal.store().backups("proof")
    proof.run(rehearsal.config)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Callable[[str], Storage]]:
    """A store that judges every request by a policy; makes a bucket of that name, and keys under the one in docs/backup.md."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    place = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    root: dict[str, Any] = {"aws_access_key_id": "root", "aws_secret_access_key": "root", "region_name": "us-east-1"}

    def judge(after: str) -> None:
        httpx.post(f"{place}/moto-api/reset-auth", content=after).raise_for_status()

    def make(bucket: str) -> Storage:
        judge("inf")
        policy, lifecycle = (json.loads(text.replace("BUCKET", bucket)) for text in documented())
        policy["Statement"][0]["Action"].append("s3:HeadBucket")  # this store's name for a part of s3:ListBucket
        s3 = boto3.client("s3", endpoint_url=place, **root)
        iam: Any = boto3.client("iam", endpoint_url=place, **root)
        s3.create_bucket(Bucket=bucket)
        s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=lifecycle)
        iam.create_user(UserName=bucket)
        iam.put_user_policy(UserName=bucket, PolicyName="backup", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=bucket)["AccessKey"]
        judge("0")
        secret = SecretStr(key["SecretAccessKey"])
        return Storage(endpoint_url=place, bucket=bucket, access_key=key["AccessKeyId"], secret_key=secret)

    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield make
    finally:
        server.kill()
        server.wait()


def documented() -> list[str]:
    """The policy and the lifecycle of docs/backup.md."""
    page = Path(__file__).resolve().parents[2] / "docs/backup.md"
    return re.findall(r"```json\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("told", [True, False])
def test_keys_that_may_not_delete_are_good_keys(
    rehearsal: Rehearsal, guarded: Callable[[str], Storage], monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Under the documented policy a run makes its backup and fails nothing; BACKUP_DELETE=off also keeps it from trying."""
    store = guarded(f"keys-{told}".lower())
    config = rehearsal.with_(store=store, may_delete=not told, keep={"dump": Keep(30, 1)})
    # As if all but the newest were old.
    monkeypatch.setattr(retention, "expired", lambda backups, _keep: Verdict(backups[:-1]))
    first = run(config).manifest
    # A logger of its own: one that another test has used already writes where that has set it up to.
    monkeypatch.setattr(outcome, "log", structlog.get_logger("outcome"))
    with structlog.testing.capture_logs() as logs:
        made = run(config)
    refused = [str(entry["reason"]) for entry in logs if entry["event"] == "backup_retention_failed"]
    if told:
        assert (refused, made.let_go) == ([], LetGo(2))
    else:
        assert len(refused) == 1
        assert "AccessDenied" in refused[0]
        assert "next: keys that may not delete are good ones: BACKUP_DELETE=off" in refused[0]
        assert made.let_go is None
    kept = Store(config)
    assert [(backup.manifest.id, backup.fault) for backup in kept.backups("dump")] == [
        (first.id, ""),
        (made.manifest.id, ""),
    ]
    state = State(config)
    state.refresh()
    assert (state.kinds["dump"].kept, state.kinds["dump"].damaged, state.kinds["dump"].held) == (2, 0, "")
    # A large one is given up without an object, and its parts are the policy's to give up as well.
    monkeypatch.setattr("ops.backup.store.PART_BYTES", 5 * 1024 * 1024)

    def breaks() -> Iterator[bytes]:
        yield os.urandom(11 * 1024 * 1024)
        raise Damaged("on the way")

    with pytest.raises(Damaged, match="on the way"):
        kept.write("dump/large", breaks())
    with pytest.raises(BackupError, match="AccessDenied"):
        kept.delete(first.name)


def test_the_drill_can_fail(rehearsal: Rehearsal) -> None:
    """A drill that cannot fail proves nothing: each way in which a step may go wrong counts."""

    def changes_and_refuses() -> None:
        rehearsal.write_later()
        raise Damaged("but the live data changed first")

    def refuses_for_another_reason() -> None:
        raise Refused("for another reason")

    for wrong in (lambda: None, changes_and_refuses, refuses_for_another_reason):
        drill = Drill()
        drill.refused("must be refused", Damaged, rehearsal.look_at_all, wrong)
        assert not drill.good
    drill = Drill()
    with pytest.raises(DrillFailed):
        drill.step("must succeed", refuses_for_another_reason)  # type: ignore[arg-type]  # it never returns
    assert not drill.good
    drill = Drill()
    drill.refused(
        "is refused", Damaged, rehearsal.look_at_all, lambda: restoring.restore(rehearsal.config, "none", force=True)
    )
    assert drill.good
