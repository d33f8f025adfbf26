"""The object store of the containers, started by the very script that starts it there: accounts, versions, lifecycle, backups."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from botocore.exceptions import ClientError
from pydantic import SecretStr

from app.core.settings import Storage as StorageSettings
from app.core.storage import ObjectNotFound, Storage, client
from devstack.ports import LOOPBACK, choose, is_open
from ops.backup.config import Config, Keep
from ops.backup.objects.mirror import run
from ops.backup.restore.objects import Wish, restore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).resolve().parents[2]
START = ROOT / "ops/seaweedfs/start.sh"
# Another address of this machine's own, as the other containers are to the store's.
ELSEWHERE = "127.0.0.2" if sys.platform.startswith("linux") else LOOPBACK
APP, OPERATOR = "app-key", "operator"
SECRETS = {"STORAGE_SECRET_KEY": "s" * 40, "STORAGE_OPERATOR_SECRET_KEY": "o" * 40}
ENV = {"STORAGE_ACCESS_KEY": APP, "STORAGE_BUCKET": "app", "BACKUP_S3_BUCKET": "backup", **SECRETS}
INSIDE = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc")


@dataclass(frozen=True)
class Server:
    """A running one."""

    ports: dict[str, int]
    environment: dict[str, str]

    def settings(self, account: str, bucket: str = "app", public_url: str = "") -> StorageSettings:
        """What the application is told of it."""
        secret = SECRETS["STORAGE_SECRET_KEY" if account == APP else "STORAGE_OPERATOR_SECRET_KEY"]
        return StorageSettings(
            endpoint_url=f"http://{LOOPBACK}:{self.ports['s3']}",
            public_url=public_url,
            access_key=account,
            secret_key=SecretStr(secret),
            bucket=bucket,
        )

    def s3(self, account: str) -> "S3Client":
        """A client of the account."""
        return client(self.settings(account))

    def lifecycle(self, **env: str) -> subprocess.CompletedProcess[str]:
        """The buckets' rules are applied once."""
        return subprocess.run(
            ["sh", START, "lifecycle"],
            env={**self.environment, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On free ports, with its data in a folder of its own."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "data").mkdir()
    ports = choose(["s3", "s3.grpc", "metrics", *INSIDE], {})
    flags = [
        f"-{name.replace('.grpc', '.port.grpc') if '.' in name else name + '.port'}={port}"
        for name, port in ports.items()
        if name != "metrics"
    ]
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "SEAWEEDFS_FOLDER": str(folder),
        "SEAWEEDFS_DATA": str(folder / "data"),
        "SEAWEEDFS_METRICS_PORT": str(ports["metrics"]),
        "SEAWEEDFS_GATEWAY": f"{LOOPBACK}:{ports['s3.grpc']}",
        **{
            f"SEAWEEDFS_{name.upper()}": f"{LOOPBACK}:{ports[name]}.{ports[f'{name}.grpc']}"
            for name in ("master", "filer")
        },
        "SEAWEEDFS_RUNTIME": "20s",
        **ENV,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", START, "serve", *flags], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until_serves(process, ports["s3"], folder / "log")
        yield Server(ports, environment)
    finally:
        # In a container its end is the end of all; here what applies the rules would sleep on.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for name in ("s3", "master", "volume", "filer"):  # it makes them there, whatever it is told, and leaves them
            Path(f"/tmp/seaweedfs-{name}-grpc-{ports[f'{name}.grpc']}.sock").unlink(missing_ok=True)  # noqa: S108


def until_serves(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Wait as the container's health check does."""
    deadline = time.monotonic() + 120
    while True:
        try:
            if httpx.get(f"http://{LOOPBACK}:{port}/healthz", timeout=3).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.1)


@pytest.fixture(scope="module")
async def made(server: Server) -> Server:
    """With its buckets, as init-storage and init-backup leave them in production: nothing may be missing."""
    for _ in range(2):  # at each deploy again
        for bucket in ("app", "backup"):
            storage = Storage(server.settings(OPERATOR, bucket))
            await storage.ensure_bucket(strict=True, origins=["https://app.example.com"])
            await storage.close()
    return server


@pytest.fixture
async def storage(made: Server) -> AsyncIterator[Storage]:
    """As the application has it."""
    storage = Storage(made.settings(APP))
    yield storage
    await storage.close()


def test_buckets_have_all_that_production_insists_on(made: Server) -> None:
    """Versioning, the lifecycle as it was given, CORS; for both."""
    s3 = made.s3(OPERATOR)
    for bucket in ("app", "backup"):
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
        rules = {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
        assert rules["old-versions"]["NoncurrentVersionExpiration"]["NoncurrentDays"] == 30
        assert rules["old-versions"]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 1
        assert rules["quarantine"]["Expiration"]["Days"] > 0
        cors = s3.get_bucket_cors(Bucket=bucket)["CORSRules"]
        assert cors[0]["AllowedOrigins"] == ["https://app.example.com"]


def refused(call: Any) -> str:
    """With which code a call is refused."""
    with pytest.raises(ClientError) as error:
        call()
    return str(error.value.response["Error"]["Code"])


def test_the_application_may_use_its_objects_and_nothing_else(made: Server) -> None:
    """Neither buckets and their rules, which keep what was deleted, nor backups."""
    app = made.s3(APP)
    public = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "*"}],
    }
    calls = {
        "another bucket": partial(app.create_bucket, Bucket="another"),
        "no bucket": partial(app.delete_bucket, Bucket="app"),
        "no versions": partial(
            app.put_bucket_versioning, Bucket="app", VersioningConfiguration={"Status": "Suspended"}
        ),
        "no rules": partial(app.delete_bucket_lifecycle, Bucket="app"),
        "open to all": partial(app.put_bucket_policy, Bucket="app", Policy=json.dumps(public)),
        "see backups": partial(app.list_objects_v2, Bucket="backup"),
        "read a backup": partial(app.get_object, Bucket="backup", Key="x"),
        "write a backup": partial(app.put_object, Bucket="backup", Key="x", Body=b""),
        "delete a backup": partial(app.delete_object, Bucket="backup", Key="x"),
    }
    assert {what: refused(call) for what, call in calls.items()} == dict.fromkeys(calls, "AccessDenied")


def test_the_operator_keeps_backups_and_reads_nobodys_files(made: Server) -> None:
    """It makes two buckets and no third one."""
    operator = made.s3(OPERATOR)
    operator.put_object(Bucket="backup", Key="x", Body=b"kept")
    assert operator.get_object(Bucket="backup", Key="x")["Body"].read() == b"kept"
    calls = {
        "another bucket": partial(operator.create_bucket, Bucket="another"),
        "read a file": partial(operator.get_object, Bucket="app", Key="x"),
        "write a file": partial(operator.put_object, Bucket="app", Key="x", Body=b""),
        "delete a file": partial(operator.delete_object, Bucket="app", Key="x"),
        "no bucket": partial(operator.delete_bucket, Bucket="backup"),
    }
    assert {what: refused(call) for what, call in calls.items()} == dict.fromkeys(calls, "AccessDenied")


def test_strangers_and_usual_passwords_are_refused(made: Server) -> None:
    """Nobody is let in without a key of ours."""
    assert httpx.get(f"http://{LOOPBACK}:{made.ports['s3']}/app/x").status_code == 403
    for key, secret in (("admin", "admin"), ("any", "any"), ("some_access_key1", "some_secret_key1"), (APP, "wrong")):
        stranger = client(made.settings(APP).model_copy(update={"access_key": key, "secret_key": SecretStr(secret)}))
        assert refused(stranger.list_buckets) in ("InvalidAccessKeyId", "SignatureDoesNotMatch")


@pytest.mark.skipif(ELSEWHERE == LOOPBACK, reason="only Linux has a second address of its own")
def test_only_the_gateway_and_the_metrics_are_reached_from_elsewhere(made: Server) -> None:
    """The filer and the others would give everything to everybody."""
    for name in ("s3", "metrics"):
        assert is_open_at(ELSEWHERE, made.ports[name]), name
    for name in INSIDE:
        assert is_open(made.ports[name]), name
        assert not is_open_at(ELSEWHERE, made.ports[name]), name
    assert "SeaweedFS_s3_request_total" in httpx.get(f"http://{ELSEWHERE}:{made.ports['metrics']}/metrics").text


def is_open_at(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        httpx.get(f"http://{host}:{port}/", timeout=5)
    except httpx.ConnectError:
        return False
    except httpx.HTTPError:
        return True
    return True


async def test_what_was_deleted_can_be_taken_back(made: Server, storage: Storage) -> None:
    """Each version by itself."""
    await storage.put("notes/a", b"first", "text/plain")
    await storage.put("notes/a", b"second", "text/plain")
    assert await storage.get("notes/a") == b"second"
    await storage.delete("notes/a")
    with pytest.raises(ObjectNotFound):
        await storage.get("notes/a")
    s3 = made.s3(APP)
    kept = s3.list_object_versions(Bucket="app", Prefix="notes/a")
    bodies = [
        s3.get_object(Bucket="app", Key="notes/a", VersionId=version["VersionId"])["Body"].read()
        for version in kept["Versions"]
    ]
    assert sorted(bodies) == [b"first", b"second"]
    assert len(kept["DeleteMarkers"]) == 1


async def test_signed_addresses_are_good_for_what_they_say(made: Server) -> None:
    """Under the name that browsers use and nginx passes on: one object, one size, these bytes."""
    storage = Storage(made.settings(APP, public_url="http://files.example.com"))
    data = b"from a browser"
    put = await storage.presigned_put("signed", 60, size=len(data), sha256=hashlib.sha256(data).digest())
    get = await storage.presigned_url("signed")
    door = f"http://{LOOPBACK}:{made.ports['s3']}"

    async def ask(method: str, url: str, content: bytes | None = None, host: str = "files.example.com") -> int:
        async with httpx.AsyncClient() as browser:
            address = url.replace("http://files.example.com", door)
            headers = {**(put.headers if content is not None else {}), "Host": host}
            return (await browser.request(method, address, content=content, headers=headers)).status_code

    assert await ask("PUT", put.url, data) == 200
    assert await storage.get("signed") == data
    assert await ask("GET", get) == 200
    assert await ask("GET", get, host="elsewhere.example.com") == 403
    assert await ask("GET", get.replace("/signed?", "/other?")) == 403
    assert await ask("PUT", put.url.replace("/signed?", "/other?"), data) == 403
    assert await ask("PUT", put.url, data + b" and more") in (400, 403)
    assert await ask("PUT", put.url, data[::-1]) in (400, 403)
    assert await storage.get("signed") == data
    await storage.close()


def test_rules_are_applied_by_nobody_without_the_key(made: Server) -> None:
    """The server's start does it; a delete marker without versions goes at the next run; the gateway obeys only who knows the operator's key."""
    by_itself = Path(made.environment["SEAWEEDFS_FOLDER"]) / "lifecycle"  # which the health check looks at
    deadline = time.monotonic() + 120
    while not by_itself.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    by_itself.unlink()
    s3 = made.s3(APP)
    version = s3.put_object(Bucket="app", Key="gone", Body=b"x")["VersionId"]
    s3.delete_object(Bucket="app", Key="gone")
    s3.delete_object(Bucket="app", Key="gone", VersionId=version)
    s3.put_object(Bucket="app", Key="stays", Body=b"x")

    def markers() -> int:
        return len(s3.list_object_versions(Bucket="app", Prefix="gone").get("DeleteMarkers", []))

    stranger = made.lifecycle(STORAGE_OPERATOR_SECRET_KEY="another")
    assert stranger.returncode == 1
    assert "Unauthenticated" in stranger.stderr
    assert markers() == 1
    ended = made.lifecycle()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert markers() == 0
    assert s3.get_object(Bucket="app", Key="stays")["Body"].read() == b"x"
    assert by_itself.exists()


def test_objects_are_backed_up_and_come_back(made: Server) -> None:
    """By the mirror, from one account into the other's bucket; an earlier version as well."""
    s3 = made.s3(APP)
    s3.put_object(Bucket="app", Key="files/a", Body=b"first")
    config = Config(
        dsn="postgresql://nobody@127.0.0.1:1/none",
        admin_dsn="",
        store=made.settings(OPERATOR, "backup"),
        prefix="backups/",
        keep={"objects": Keep(3, 3)},
        keys={"test": b"k" * 32},
        may_make_bucket=False,
        files=made.settings(APP),
    )
    assert run(config).manifest.details["copied"] >= 1
    s3.delete_object(Bucket="app", Key="files/a")
    assert restore(config, Wish(key="files/a")).written == ["files/a"]
    assert s3.get_object(Bucket="app", Key="files/a")["Body"].read() == b"first"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STORAGE_OPERATOR_SECRET_KEY", ""),
        ("STORAGE_SECRET_KEY", 'a"b'),
        ("STORAGE_BUCKET", "a|b"),
        ("STORAGE_ACCESS_KEY", "$(id)"),
    ],
)
def test_what_cannot_be_an_account_is_refused(tmp_path: Path, name: str, value: str) -> None:
    """Before anything is written, and by its name."""
    env = {"PATH": os.environ["PATH"], **ENV, "SEAWEEDFS_FOLDER": str(tmp_path), name: value}
    ended = subprocess.run(["sh", START, "serve"], env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert name in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_accounts_are_for_the_servers_eyes_only(made: Server) -> None:
    """Written with the narrowest rights; and every variable that the script insists on is given to it in the container."""
    written = Path(made.environment["SEAWEEDFS_FOLDER"]) / "accounts.json"
    assert written.stat().st_mode & 0o077 == 0
    services = yaml.safe_load((ROOT / "ops/compose/rooms/seaweedfs.yaml").read_text())["services"]
    assert set(services["seaweedfs"]["environment"]) == set(ENV)
    application = yaml.safe_load((ROOT / "ops/compose/base.yaml").read_text())["services"]["app"]["environment"]
    assert application["STORAGE_OPERATOR_SECRET_KEY"] == ""
