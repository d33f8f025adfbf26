"""Database and objects come back as a pair, whatever was uploaded and deleted between the two; and logs are archived."""

import gzip
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from app.core.storage import NamedObjects, client
from app.features import modules
from devstack import Stack
from ops.backup import dump, logs, proof, references
from ops.backup.config import Config, Keep, LogSources
from ops.backup.drill.rehearsal import PARTS, Rehearsal
from ops.backup.errors import BackupError, Busy, Damaged, Refused
from ops.backup.lock import only_one
from ops.backup.objects import mirror
from ops.backup.restore import pair

NAMES = (NamedObjects("files", "SELECT key FROM files"),)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A database server and a store that these tests may ruin."""
    with Stack(tmp_path_factory.mktemp("servers"), PARTS) as stack:
        yield stack


class Both:
    """Rows, each of which names an object."""

    def __init__(self, servers: Stack, name: str) -> None:
        rehearsal = Rehearsal(servers, prefix=f"{name}/")
        for database in rehearsal.databases() - {"postgres"}:
            servers.sql(f'DROP DATABASE "{database}" WITH (FORCE)')
        servers.sql('CREATE DATABASE "app" OWNER "app"')
        self.rehearsal = rehearsal
        store = rehearsal.config.store
        self.bucket = f"files-{name}"
        self.config: Config = rehearsal.with_(
            files=store.model_copy(update={"bucket": self.bucket}),
            keep={kind: Keep(30, 3) for kind in ("dump", "objects", "logs", "proof")},
        )
        self.s3 = client(store)
        self.s3.create_bucket(Bucket=self.bucket)
        self.sql("CREATE TABLE files (key text PRIMARY KEY)")

    def sql(self, statement: str) -> None:
        """In the live database."""
        self.rehearsal.ask(lambda connection: connection.execute(statement))

    def add(self, key: str) -> None:
        """The object first, then its row, as features do."""
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=key.encode() * 100)
        self.sql(f"INSERT INTO files VALUES ('{key}')")  # noqa: S608  # the names come from these tests

    def remove(self, key: str) -> None:
        """The row first, then its object."""
        self.sql(f"DELETE FROM files WHERE key = '{key}'")  # noqa: S608
        self.s3.delete_object(Bucket=self.bucket, Key=key)

    def lose(self) -> None:
        """Everything."""
        self.rehearsal.destroy()
        for key in self.keys():
            self.s3.delete_object(Bucket=self.bucket, Key=key)

    def keys(self) -> set[str]:
        """The objects."""
        return {item["Key"] for item in self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])}

    def rows(self) -> set[str]:
        """The rows."""
        return {record[0] for record in self.rehearsal.ask(lambda one: one.fetch("SELECT key FROM files"))}


@pytest.fixture
def both(servers: Stack, tmp_path: Path) -> Both:
    """A database and a bucket, with nothing in them."""
    return Both(servers, tmp_path.name.replace("_", "-")[:50])


def test_no_row_is_without_its_object(both: Both) -> None:
    """One was deleted after the dump, one uploaded: the first is back with its row, the second is nobody's loss."""
    for key in ("stays", "goes"):
        both.add(key)
    mirror.run(both.config)
    dump.run(both.config)
    both.remove("goes")
    both.add("comes")
    with pytest.raises(BackupError, match="with a mirror of the objects made after it"):
        pair.restore(both.config, names=NAMES, force=True)
    mirror.run(both.config)
    with pytest.raises(Refused, match="is live"):
        pair.restore(both.config, names=NAMES)
    assert both.keys() == {"stays", "comes"}
    both.lose()
    result = pair.restore(both.config, names=NAMES)
    assert both.rows() == {"stays", "goes"} <= both.keys()
    assert (result.named.named, result.named.lost) == (2, 0)


def test_the_pair_of_a_moment_is_the_newest_before_it(both: Both) -> None:
    """By the dump's snapshot; one whose objects were never mirrored is passed over."""
    both.add("first")
    first = dump.run(both.config).manifest
    mirror.run(both.config)
    both.add("second")
    second = dump.run(both.config).manifest
    store = both.rehearsal.store()
    assert pair.choose(store).dump.id == first.id
    with pytest.raises(BackupError, match=f"no objects were mirrored since dump {second.id}"):
        pair.choose(store, wanted=second.id)
    mirror.run(both.config)
    assert pair.choose(store).dump.id == second.id
    assert pair.choose(store, at=pair.snapshot_at(second) - timedelta(milliseconds=1)).dump.id == first.id
    with pytest.raises(BackupError, match="no dump from before 2020"):
        pair.choose(store, at=datetime(2020, 1, 1, tzinfo=UTC))


def test_a_row_without_its_object_is_said(both: Both) -> None:
    """The check can fail: an object that was never there."""
    both.add("whole")
    both.sql("INSERT INTO files VALUES ('nowhere')")
    dump.run(both.config)
    mirror.run(both.config)
    both.lose()
    with pytest.raises(Damaged, match="1 of 2 rows name objects that are not there: files: nowhere"):
        pair.restore(both.config, names=NAMES)


def test_a_dump_from_before_a_feature_is_no_fault(both: Both) -> None:
    """Its table is not there yet."""
    unknown = NamedObjects("later", "SELECT key FROM later")
    found = both.rehearsal.ask(lambda connection: references.check(connection, set(), (unknown, *NAMES)))
    assert (found.named, found.lost) == (0, 0)


def test_features_declare_what_their_tables_name(migrated: Stack) -> None:
    """Each query is one that the migrated database answers."""
    declared = references.declared()
    assert len(declared) == sum(len(module.OBJECTS) for module in modules("objects"))
    for named in declared:
        migrated.sql(f"EXPLAIN {named.query}", "app")


def test_the_database_keeps_the_lock_for_every_machine(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine has other files, and the same database."""
    with only_one(both.config, "objects"):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(Busy), only_one(both.config, "objects"):
            pass
        with only_one(both.config, "logs"):
            pass
    with only_one(both.config, "objects"):
        pass


# The proof of all that


def test_the_newest_backups_are_restored_for_trial(both: Both) -> None:
    """Counted, compared, and gone again; what was found is written down, and nothing live is touched."""
    both.add("whole")
    mirror.run(both.config)
    dump.run(both.config)
    mirror.run(both.config)
    before = both.rows(), both.keys(), both.rehearsal.databases()
    outcome = proof.run(both.config)
    assert (both.rows(), both.keys(), both.rehearsal.databases()) == before
    details = outcome.manifest.details
    assert details["dump"]["rows"] == 1
    assert [backup.manifest.id for backup in both.rehearsal.store().backups("proof")] == [outcome.manifest.id]


def test_what_cannot_be_restored_is_not_proven(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged dump, a row whose object the mirror lacks, nothing at all: each is an error, and no proof is left."""
    with pytest.raises(BackupError, match="no backup that could be proven"):
        proof.run(both.config)
    monkeypatch.setattr(references, "declared", lambda: list(NAMES))
    both.sql("INSERT INTO files VALUES ('nowhere')")
    dump.run(both.config)
    mirror.run(both.config)
    with pytest.raises(BackupError, match="dump: 1 of 1 rows name objects that are in no mirror: files: nowhere"):
        proof.run(both.config)
    manifest = both.rehearsal.store().backups("dump")[-1].manifest
    key = f"{both.config.prefix}{manifest.only.name}"
    both.s3.put_object(Bucket=both.config.store.bucket, Key=key, Body=b"x" * manifest.only.size)
    with pytest.raises(BackupError, match=r"dump: .*is not encrypted as backups are"):
        proof.run(both.config)
    assert not both.rehearsal.store().backups("proof")
    assert not [name for name in both.rehearsal.databases() if "_proof_" in name]


# Logs


AUDIT = """
CREATE TABLE audit_log (id int PRIMARY KEY, created_at timestamptz NOT NULL, action text NOT NULL);
INSERT INTO audit_log VALUES (1, '2026-09-30T23:59:59Z', 'before'), (2, '2026-10-01T00:00:00Z', 'first'),
    (3, '2026-10-31T23:59:59.999Z', 'last'), (4, '2026-11-01T00:00:00Z', 'after');
"""
NOW = datetime(2026, 11, 3, tzinfo=UTC)


def lines_of(file: Path) -> list[dict[str, str]]:
    """What an archive holds."""
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


def test_a_month_is_archived_once_and_can_be_read(both: Both, tmp_path: Path) -> None:
    """The audit trail to the second, and the files that were last written in that month."""
    both.sql(AUDIT)
    folder = tmp_path / "var"
    (folder / "nginx").mkdir(parents=True)
    for name, day in (("nginx/access.log.1", datetime(2026, 10, 9, tzinfo=UTC)), ("nginx/access.log", NOW)):
        (folder / name).write_text(name)
        os.utime(folder / name, (day.timestamp(), day.timestamp()))
    config = both.rehearsal.with_(keep=both.config.keep, logs=LogSources(folder))
    (made,) = logs.run(config, NOW)
    assert made.manifest.details == {"month": "2026-10", "counts": {"audit": 2, "files": 1}}
    logs.verify(config)
    audit, files = logs.restore(config, "2026-10", tmp_path / "out")
    assert [line["action"] for line in lines_of(audit)] == ["first", "last"]
    with tarfile.open(files) as archive:
        assert archive.getnames() == ["nginx/access.log.1"]
    with pytest.raises(BackupError, match="is there already"):
        logs.restore(config, "2026-10", tmp_path / "out")
    with pytest.raises(BackupError, match="no archive of 2026-09"):
        logs.restore(config, "2026-09", tmp_path / "other")
    months = [str(one.manifest.details["month"]) for one in logs.run(config, datetime(2027, 2, 1, tzinfo=UTC))]
    assert months == ["2026-11", "2026-12", "2027-01"]


def test_where_there_is_no_audit_trail_there_is_no_fault(both: Both) -> None:
    """A database from before it."""
    (made,) = logs.run(both.config, NOW)
    assert made.manifest.details["counts"] == {}


class Loki:
    """Answers as Loki does: a page of lines from a moment on, in several streams."""

    def __init__(self, lines: list[tuple[int, str, str]]) -> None:
        self.pages = 0
        loki = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                found = [line for line in lines if int(asked["start"]) <= line[0] < int(asked["end"])]
                streams: dict[str, list[list[str]]] = {}
                for moment, service, text in sorted(found)[: int(asked["limit"])]:
                    streams.setdefault(service, []).append([str(moment), text])
                result = [{"stream": {"service": name}, "values": values} for name, values in streams.items()]
                body = json.dumps({"status": "success", "data": {"resultType": "streams", "result": result}}).encode()
                loki.pages += 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_every_line_of_loki_is_archived_once(both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of one moment that fall on two pages; more of one moment than fit a page are an error, not a loss."""
    begin = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp()) * 1_000_000_000
    lines = [(begin + number // 3, "api" if number % 2 else "worker", f"line {number}") for number in range(50)]
    loki = Loki([*lines, (begin - 1, "api", "before")])
    monkeypatch.setattr(logs, "PAGE", 7)
    try:
        address = f"http://127.0.0.1:{loki.server.server_port}"
        config = both.rehearsal.with_(keep=both.config.keep, logs=LogSources(loki=address, query='{service=~".+"}'))
        (made,) = logs.run(config, NOW)
        assert made.manifest.details["counts"] == {"loki": 50}
        assert loki.pages > 7
        (file,) = logs.restore(config, "2026-10", tmp_path)
        assert sorted(line["line"] for line in lines_of(file)) == sorted(text for _, _, text in lines)
        monkeypatch.setattr(logs, "PAGE", 2)
        with pytest.raises(BackupError, match="more than 2 lines of one moment"):
            logs.run(config, NOW, wanted="2026-10")
    finally:
        loki.server.shutdown()
        loki.server.server_close()
