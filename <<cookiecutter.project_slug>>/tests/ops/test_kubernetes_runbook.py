"""The commands of the runbook, typed as they are printed, say in the cluster what they say to Compose on one machine."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from ops.check.docs import commands
from ops.check.tools import find

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(page for page in (ROOT / "docs/runbook").glob("*.md") if "docker compose" in page.read_text("utf-8"))
# A kubectl that answers what is asked of it in passing, and writes down what it was told.
CLUSTER = """
kubectl() {
  printf '%s\\n' "${*//$'\\n'/ }" >&9
  case "$*" in
  *'get secret app'*) printf dG9rZW4= ;;
  *'get httproute web'*) printf service.example.com ;;
  *'--output name') echo pod/postgres-1 ;;
  *'create job'*) echo '{"spec": {"template": {"spec": {"containers": [{"name": "app"}]}}}}' ;;
  *'apply --filename -') cat >&8 ;;
  esac
}
"""
# Pages that ask for something which others have here: the Gateway, cert-manager, CloudNativePG, the operator of Prometheus, the nodes.
ELSEWHERE = {
    *("alarms-not-sent", "backup-wal", "certificates", "disk-full", "nginx-502", "point-in-time", "redis-away", "slo"),
    *("target-down", "watchdog"),
}


class Told:
    """What became of commands.

    Attributes:
        calls: what kubectl was told.
        applied: what it was given to apply.
        said: what a person reads.
    """

    def __init__(self, folder: Path, script: str) -> None:
        text = f"export ENV=production\n{CLUSTER}\n. ops/deploy/kubernetes/runbook.sh\n{script}\n"
        done = subprocess.run(
            ["bash", "-c", f"exec 8>{folder}/applied 9>{folder}/calls\n{text}"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.code = done.returncode
        self.said = done.stdout + done.stderr
        self.calls = [
            re.sub(r"^--namespace \S+ ", "", line) for line in (folder / "calls").read_text("utf-8").splitlines()
        ]
        self.applied = (folder / "applied").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_can_be_typed(page: Path, tmp_path: Path) -> None:
    """Each of its commands reaches the cluster, or is refused with where to look instead; none is taken for another."""
    blocks = commands(page.read_text("utf-8"), {"bash compose"})
    typed = [line for block in blocks for line in block.splitlines() if "docker" in line]
    told = Told(tmp_path, "\n".join(typed))
    assert "no counterpart" not in told.said
    assert "command not found" not in told.said
    refused = [line for line in re.findall(r"(?m)^runbook: (.*)", told.said) if "autoscaler" not in line]
    assert bool(refused) == (page.stem in ELSEWHERE), refused
    assert all(re.search(r"kubectl --namespace|docs/kubernetes.md|kubectl get", line) for line in refused)
    asked = [call for call in told.calls if not call.startswith(("get secret", "get httproute"))]
    assert len(asked) + len(refused) >= len(typed)


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("docker compose ps --all", "get pods"),
        (
            "docker compose logs --since 15m --no-log-prefix api worker",
            "logs deployment/web --all-pods --since=15m",
        ),
        ("docker compose logs --tail 50 postgres", "logs --selector cnpg.io/cluster=postgres --container postgres"),
        (
            "docker compose exec broker redis-cli llen medium",
            "exec --stdin statefulset/broker -- redis-cli llen medium",
        ),
        (
            "docker compose exec postgres psql -U postgres -c 'SELECT 1'",
            "exec --stdin pod/postgres-1 --container postgres -- psql -U postgres -c SELECT 1",
        ),
        ("docker compose up --detach --no-deps api worker beat", "rollout restart deployment/beat"),
        ("docker compose up --detach --no-recreate --scale worker=2 worker", "scale deployment/worker --replicas 2"),
        ("docker compose stop worker beat", "annotate scaledobject worker autoscaling.keda.sh/paused-replicas=0"),
        ("docker compose start worker beat", "annotate scaledobject worker autoscaling.keda.sh/paused-replicas-"),
        ("docker compose stats --no-stream", "top pods --containers"),
    ],
)
def test_what_it_becomes(line: str, call: str, tmp_path: Path) -> None:
    """The same, in the cluster's words, and shown."""
    told = Told(tmp_path, line)
    assert any(made.startswith(call) for made in told.calls), told.calls
    assert "+ kubectl --namespace" in told.said


def test_a_backup_by_hand_is_a_job_of_its_own(tmp_path: Path) -> None:
    """With the disk and the keys that those of the timetable have, and once."""
    told = Told(tmp_path, 'docker compose run --rm backup python -m ops.backup restore dump --from "a b" --force')
    assert told.code == 0, told.said
    assert any(call.startswith("create job by-hand-") and "--from=cronjob/backup-dump" in call for call in told.calls)
    words = '["python", "-m", "ops.backup", "restore", "dump", "--from", "a b", "--force"]'
    assert f'"command": {words}' in told.applied
    assert '"backoffLimit": 0' in told.applied


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("docker compose exec nginx nginx -t", "the Gateway is nginx here"),
        ("docker compose up --detach wal", "CloudNativePG keeps the log"),
        ("docker compose run --rm backup python -m ops.backup restore base --to latest", "Back to a second"),
        ("docker compose build", "has no counterpart"),
        ("docker system df", "no engine here"),
    ],
)
def test_what_is_not_there_is_refused(line: str, says: str, tmp_path: Path) -> None:
    """In one line, with a code, and nothing was done."""
    told = Told(tmp_path, line)
    assert told.code == 2
    assert says in told.said
    assert [call for call in told.calls if not call.startswith("get ")] == []


def test_the_preparation_knows_where_the_service_is(tmp_path: Path) -> None:
    """What the pages use is read from the cluster; another environment than there is, is refused."""
    assert "https://service.example.com token" in Told(tmp_path, 'echo "$URL $HEALTH_TOKEN"').said
    done = subprocess.run(
        ["bash", "-c", "ENV=prod; . ops/deploy/kubernetes/runbook.sh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ENV is staging or production" in done.stderr


def test_kubectl_has_the_options(tmp_path: Path) -> None:
    """The one above takes any; the real program is asked for those that it has."""
    lines = [line for page in PAGES for block in commands(page.read_text("utf-8")) for line in block.splitlines()]
    told = Told(tmp_path, "\n".join(line for line in lines if line.startswith("docker compose")))
    used: dict[str, set[str]] = {}
    for call in told.calls:
        words = call.split(" -- ")[0].split()
        command = " ".join(words[:2]) if words[0] in ("rollout", "create", "top") else words[0]
        used.setdefault(command, set()).update(word.split("=")[0] for word in words if word.startswith("--"))
    assert len(used) > 6
    real = find("kubectl")
    if real is None and not os.environ.get("CI"):
        pytest.skip("there is no kubectl here")
    assert real
    for command, options in used.items():
        text = subprocess.run([real, *command.split(), "--help"], capture_output=True, text=True, check=True).stdout
        assert {option for option in options - {"--namespace"} if f"{option}=" not in text} == set(), command
