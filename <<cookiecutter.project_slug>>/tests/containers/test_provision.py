"""`make provision` on a bare Debian, in a container: run twice, and then held to what it promises."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.containers.engine import run
from tests.containers.server import ROOT

pytestmark = pytest.mark.containers

#: A bare Debian; another one where this name cannot be fetched.
DEBIAN = os.environ.get("DEBIAN_IMAGE", "debian:trixie-slim")


class Host:
    """A container that stands for the machine."""

    def __init__(self, folder: Path) -> None:
        self.name = f"provision-{uuid4().hex[:8]}"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / "key"))
        self.key = (folder / "key.pub").read_text("utf-8").strip()
        run(
            *("docker", "run", "--detach", "--init", "--name", self.name, "--cap-add", "NET_ADMIN"),
            *("--volume", f"{ROOT}:/project:ro", DEBIAN, "sleep", "infinity"),
        )

    def sh(self, command: str) -> str:
        """What a command says there, both ways."""
        return run("docker", "exec", self.name, "bash", "-euo", "pipefail", "-c", f"exec 2>&1; {command}")

    def provision(self) -> str:
        """The script, as `provision.sh` starts it on the host."""
        words = f"--here example prod '{self.key}'"
        return self.sh(f"bash /project/ops/scripts/provision.sh {words} </project/ops/scripts/door.sh")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Provisioned once."""
    made = Host(tmp_path_factory.mktemp("provision"))
    try:
        made.provision()
        yield made
    finally:
        run("docker", "rm", "--force", "--volumes", made.name)


def test_a_second_run_changes_nothing(host: Host) -> None:
    """So that it can be run after every change of the script."""
    kept = "find /etc /usr/local /srv -newer /tmp/mark -type f ! -path '/etc/.*' | sort"
    host.sh("touch /tmp/mark")
    said = host.provision()
    assert "everything was there already" in said
    assert "wrote" not in said
    assert host.sh(kept).split() == []
    assert re.search(r"DEPLOY_KNOWN_HOSTS \S+ ssh-ed25519 \S+", said)


def test_the_key_leads_to_the_door_and_belongs_to_root(host: Host) -> None:
    """The deploy user can change neither what the key may do nor which key it is."""
    line = host.sh("cat /etc/ssh/deploy/deploy")
    assert line.startswith('restrict,command="/usr/local/sbin/example-door prod /srv/example" ssh-ed25519 ')
    for path in ("/etc/ssh/deploy/deploy", "/usr/local/sbin/example-door"):
        assert host.sh(f"stat -c '%U %a' {path}").split() in (["root", "644"], ["root", "755"])
    settings = host.sh("sshd -T -C user=deploy").lower()
    for setting in (
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "authorizedkeysfile /etc/ssh/deploy/%u",
        "allowtcpforwarding no",
        "permittty no",
    ):
        assert setting in settings
    assert "passwordauthentication no" in host.sh("sshd -T").lower()
    assert host.sh("SSH_ORIGINAL_COMMAND=status runuser -u deploy -- /usr/local/sbin/example-door prod /srv/example")
    with pytest.raises(Exception, match="a shell"):
        host.sh("runuser -u deploy -- /usr/local/sbin/example-door prod /srv/example")


def test_the_firewall_lets_in_three_ports(host: Host) -> None:
    """The rules as the kernel has taken them; a second load does not double them."""
    host.sh("nft --file /etc/nftables.conf && nft --file /etc/nftables.conf")
    rules = host.sh("nft list table inet host")
    assert "policy drop" in rules
    assert re.findall(r"tcp dport \{([^}]*)\}", rules) == [" 22, 80, 443 "]
    assert rules.count("accept") == 4


def test_debians_own_compose_reads_our_files(host: Host) -> None:
    """Older than the one of a desk: every environment is valid to it."""
    host.sh("docker compose version")
    secrets = "CACHE_PASSWORD DATABASE_PASSWORD BROKER_PASSWORD STORAGE_ACCESS_KEY STORAGE_SECRET_KEY HEALTH_TOKEN MONITOR_PASSWORD"
    host.sh(f"cp -r /project /tmp/project && cd /tmp/project && for name in {secrets}; do echo $name=x >>.env; done")
    for environment in ("dev", "stage", "prod"):
        host.sh(
            "cd /tmp/project && files=(-f compose.yaml) && for room in ops/compose/rooms/*.yaml; do "
            f"[ ! -e $room ] || files+=(-f $room); done && docker compose ${{files[@]}} -f ops/compose/{environment}.yaml config -q"
        )


def test_upgrades_come_by_themselves(host: Host) -> None:
    """Debian's own tool says that it would."""
    assert 'APT::Periodic::Unattended-Upgrade "1";' in host.sh("apt-config dump")
    assert "deploy" in host.sh("getent group docker")
    assert host.sh("stat -c '%U %a' /srv/example").split() == ["deploy", "750"]
