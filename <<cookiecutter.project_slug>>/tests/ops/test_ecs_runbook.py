"""The commands of the runbook, typed as they are printed, say in AWS what they say to Compose on one machine."""

import re
import subprocess
from pathlib import Path

import boto3
import pytest

from ops.check.docs import commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(page for page in (ROOT / "docs/runbook").glob("*.md") if "docker compose" in page.read_text("utf-8"))
# An `aws` that answers what is asked of it in passing, and writes down what it was told; and so for tasks of their own.
STAND_IN = """
aws() {
  printf '%s\\n' "${*//$'\\n'/ }" >>"$CALLS"
  case "$*" in
  *get-secret-value*) echo '{"HEALTH_TOKEN": "token"}' ;;
  *describe-stacks*) echo service.example.com ;;
  esac
}
env() { printf '%s\\n' "${*//$'\\n'/ }" >>"$CALLS"; }
"""


class Told:
    """What became of commands.

    Attributes:
        calls: what AWS was told.
        said: what a person reads.
    """

    def __init__(self, folder: Path, script: str) -> None:
        calls = folder / "calls"
        calls.touch()
        done = subprocess.run(
            [
                "bash",
                "-c",
                f"CALLS={calls}\nexport ENV=production\n{STAND_IN}\n. ops/deploy/ecs/runbook.sh\n{script}\n",
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.code = done.returncode
        self.said = done.stdout + done.stderr
        passing = ("secretsmanager get-secret-value", "cloudformation describe-stacks")
        self.calls = [line for line in calls.read_text("utf-8").splitlines() if not line.startswith(passing)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_can_be_typed(page: Path, tmp_path: Path) -> None:
    """Each of its commands reaches AWS, or is refused with where to look instead; none is taken for another."""
    blocks = commands(page.read_text("utf-8"), {"bash compose"})
    typed = [line for block in blocks for line in block.splitlines() if line.startswith("docker ")]
    told = Told(tmp_path, "\n".join(typed))
    assert "no counterpart" not in told.said
    assert "command not found" not in told.said
    refused = [line for line in re.findall(r"(?m)^runbook: (.*)", told.said) if "autoscaling" not in line]
    assert all(re.search(r"\baws \w|docs/ecs\.md|make \w|CloudWatch", line) for line in refused), refused
    assert len(told.calls) + len(refused) >= len(typed)


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("docker compose ps --all", "ecs describe-services --cluster NAME --services web worker beat backup"),
        (
            "docker compose logs --since 15m --no-log-prefix api",
            "logs tail /ecs/NAME --since 15m --log-stream-name-prefix web",
        ),
        ("docker compose logs --tail 50 postgres", "logs tail /aws/rds/instance/NAME/postgresql --since 1h"),
        (
            "docker compose exec worker python -m app.cli tasks dead",
            "SERVICE=worker ops/deploy/ecs/once.sh production python",
        ),
        ("docker compose exec broker redis-cli llen medium", "BROKER llen medium"),
        (
            "docker compose exec postgres psql -U postgres -d app -c 'SELECT 1'",
            'exec psql "$DATABASE_URL" "$@" sh -c SELECT 1',
        ),
        (
            "docker compose up --detach --no-deps api worker",
            "ecs update-service --cluster NAME --service worker --force-new-deployment",
        ),
        (
            "docker compose up --scale worker=2 worker",
            "ecs update-service --cluster NAME --service worker --desired-count 2",
        ),
        (
            "docker compose stop worker beat",
            "--suspended-state DynamicScalingInSuspended=true,DynamicScalingOutSuspended=true",
        ),
        ("docker compose stop worker beat", "ecs update-service --cluster NAME --service beat --desired-count 0"),
        (
            "docker compose start worker",
            "--suspended-state DynamicScalingInSuspended=false,DynamicScalingOutSuspended=false",
        ),
        (
            "docker compose run --rm backup python -m ops.backup restore dump --force",
            "SERVICE=backup ops/deploy/ecs/once.sh production python -m ops.backup restore dump --force",
        ),
    ],
)
def test_what_it_becomes(line: str, call: str, tmp_path: Path) -> None:
    """The same, in AWS' words, and shown."""
    told = Told(tmp_path, f'{line}\necho "cluster=$CLUSTER"')
    name = re.findall(r"cluster=(\S+)", told.said)[-1]
    assert any(call.replace("NAME", name) in made for made in told.calls), told.calls
    assert re.search(r"(?m)^\+ (aws|env) ", told.said)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("docker compose exec nginx nginx -t", "the load balancer is nginx here"),
        ("docker compose up --detach wal", "RDS keeps the log"),
        ("docker compose run --rm restore python -m ops.backup restore base --to latest", "RDS keeps the log"),
        ("docker compose run --rm backup python -m ops.backup restore redis", "ElastiCache is broker here"),
        ("docker compose exec api python -c 'http://127.0.0.1:8000/metrics'", "serves nothing to ask"),
        ("docker compose stats", "Container Insights"),
        ("docker compose build", "has no counterpart"),
        ("docker system df", "no engine here"),
    ],
)
def test_what_is_not_there_is_refused(line: str, says: str, tmp_path: Path) -> None:
    """In one line, with a code, and nothing was done."""
    told = Told(tmp_path, line)
    assert told.code == 2
    assert says in told.said
    assert told.calls == []


def test_the_preparation_knows_where_the_service_is(tmp_path: Path) -> None:
    """What the pages use is read from AWS; another environment than there is, is refused."""
    assert "https://service.example.com token" in Told(tmp_path, 'echo "$URL $HEALTH_TOKEN"').said
    script = "ENV=prod; . ops/deploy/ecs/runbook.sh || echo refused"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ("refused" in done.stdout, "production, staging" in done.stderr) == (True, True)


def test_aws_has_the_options(tmp_path: Path) -> None:
    """The one above takes any; the models of the services are asked for those that there are."""
    lines = [
        "docker compose ps",
        "docker compose stop worker beat",
        "docker compose start worker",
        "docker compose restart api",
    ]
    told = Told(tmp_path, "\n".join(lines))
    asked = {(words[0], words[1]): words for call in told.calls if (words := call.split())[0] != "logs"}
    assert len(asked) == 3
    for (service, operation), words in asked.items():
        client = boto3.client(service, region_name="eu-central-1")  # type: ignore[call-overload]
        name = "".join(part.title() for part in operation.split("-"))
        members = client.meta.service_model.operation_model(name).input_shape.members
        options = {word.strip("-").replace("-", "").lower() for word in words if word.startswith("--")}
        assert options - {"output", "query"} <= {member.lower() for member in members}
