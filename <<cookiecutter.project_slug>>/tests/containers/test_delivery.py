"""Deploys over SSH, by the very script that the workflow calls, under constant load."""

from pathlib import Path

import pytest

from tests.containers.conftest import Versions
from tests.containers.load import Load
from tests.containers.server import Server

pytestmark = pytest.mark.containers


def images_of(server: Server) -> set[str]:
    """What API, worker and beat run."""
    return {server.runs(service) for service in ("api", "worker", "beat")}


def nothing_was_lost(load: Load) -> None:
    """Every request was answered by the API."""
    assert load.failures == []
    assert min(load.answers.values()) > 20, "that was no load"


def test_a_second_version_drops_no_request_and_the_first_one_serves_on_its_database(
    live: Server, versions: Versions
) -> None:
    """There and back: a migration comes with the second version and stays when it is rolled back."""
    with Load(live.url, live.authority) as load:
        there = live.ship(versions.second, versions.backup)
        assert there.returncode == 0, there.stdout + there.stderr
        assert images_of(live) == {versions.second}
        back = live.knock("rollback")
        assert back.returncode == 0, back.stdout + back.stderr
        assert images_of(live) == {versions.first}
    nothing_was_lost(load)


@pytest.mark.parametrize("broken", ["broken_api", "broken_worker", "broken_migration"])
def test_a_broken_version_changes_nothing(live: Server, versions: Versions, broken: str) -> None:
    """An API that answers everything with 500, a worker that ends at once, a migration that fails."""
    before = images_of(live)
    containers = {service: live.containers(service)[0]["Id"] for service in ("api", "worker", "nginx")}
    settings = (live.folder / ".env").read_text("utf-8")
    with Load(live.url, live.authority) as load:
        done = live.ship(getattr(versions, broken), versions.backup)
    assert done.returncode != 0
    assert "failed" in done.stdout + done.stderr
    nothing_was_lost(load)
    assert images_of(live) == before
    assert {service: live.containers(service)[0]["Id"] for service in containers} == containers, "the very containers"
    assert (live.folder / ".env").read_text("utf-8") == settings


def test_files_of_a_failed_version_do_not_stay(live: Server, versions: Versions) -> None:
    """The Compose files belong to the version: what failed has not changed them."""
    marked = live.folder / "ops/compose/base.yaml"
    before = marked.read_text("utf-8")
    own = live.folder / "ops/nginx/certs/privkey.pem"
    # As if the version that runs had other files than the one that comes.
    marked.write_text(before + "# of the version that runs\n", "utf-8")
    extra = live.folder / "ops/only-in-the-version-that-runs"
    extra.write_text("", "utf-8")
    try:
        assert live.ship(versions.broken_migration, versions.backup).returncode != 0
        assert marked.read_text("utf-8").endswith("# of the version that runs\n")
        assert extra.exists()
        assert own.exists()
    finally:
        marked.write_text(before, "utf-8")
        extra.unlink(missing_ok=True)


def test_an_unknown_host_key_is_refused(live: Server, versions: Versions, tmp_path: Path) -> None:
    """Somebody between the workflow and the server gets neither files nor secrets."""
    from tests.containers.engine import run

    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other"))
    other = (tmp_path / "other.pub").read_text("utf-8").split()
    before = images_of(live)
    done = live.ship(
        versions.second, versions.backup, DEPLOY_KNOWN_HOSTS=f"[127.0.0.1]:{live.ssh_port} {other[0]} {other[1]}"
    )
    assert done.returncode != 0
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr
    assert images_of(live) == before


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("bash",),
        ("deploy", "redis:latest", "redis:latest"),
        ("deploy", "sha256:" + "0" * 64, "$(touch /tmp/owned)"),
        ("status;id",),
        ("rollback", "a", "b", "c"),
    ],
)
def test_the_key_opens_the_door_and_nothing_else(live: Server, words: tuple[str, ...]) -> None:
    """No shell, no image that was not named by its digest, no words beyond the four."""
    done = live.knock(*words)
    assert done.returncode != 0
    assert "door: " in done.stdout + done.stderr
    assert "uid=" not in done.stdout


def test_the_key_forwards_no_port(live: Server) -> None:
    """The database is not reachable through the door either."""
    done = live.knock("status", options=("-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"))
    assert done.returncode != 0


def test_the_door_tells_what_runs(live: Server, versions: Versions) -> None:
    """One word that changes nothing."""
    done = live.knock("status")
    assert done.returncode == 0
    assert versions.first in done.stdout
