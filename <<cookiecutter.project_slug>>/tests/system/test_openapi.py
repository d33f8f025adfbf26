"""What the OpenAPI document promises, held against a running API by requests made up from the document itself.

schemathesis sends what the document allows, what it forbids, and chains of requests in which one answer feeds the next;
every check that it has is on. SYSTEM_TEST_FUZZ_SEED and SYSTEM_TEST_FUZZ_EXAMPLES make another and a longer run.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from devstack import Stack
from tests.system.conftest import ISSUER, PUBLIC_KEYS, access_token

# Limits count requests, and a fuzzer sends hundreds.
UNLIMITED = {
    "LOG_LEVEL": "INFO",
    "TASKS_CONCURRENCY": "1",
    "LIMITS_PER_USER": "0",
    "LIMITS_SENSITIVE": "1000000",
    "AUTH_ISSUER": ISSUER,
    "AUTH_PUBLIC_KEYS": json.dumps(PUBLIC_KEYS),
}
# Who asks, and the roles that they have.
ASKING = {"a stranger": None, "somebody who is signed in": (), "a superuser": ("superuser",)}
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The API itself, without nginx in front, on neighbours of its own: what is made up here stays here."""
    if os.environ.get("SYSTEM_TEST_URL"):
        pytest.skip("a service that runs already is not ours to fill with nonsense")
    parts = ("postgres", "cache", "broker", "storage", "api", "worker")
    with Stack(tmp_path_factory.mktemp("fuzz"), parts, UNLIMITED) as stack:
        yield stack


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fuzzer has to know of the whole, and of each feature: a feature's part goes with the feature."""
    whole = tmp_path_factory.mktemp("configuration") / "schemathesis.toml"
    parts = [TESTS / "system" / "schemathesis.toml", *sorted(TESTS.glob("features/*/schemathesis.toml"))]
    whole.write_text("\n".join(part.read_text() for part in parts))
    return whole


@pytest.mark.parametrize("who", ASKING)
def test_the_document_keeps_its_word(api: Stack, configuration: Path, who: str, tmp_path: Path) -> None:
    """No 5xx, no status, header or body that the document does not know, nothing taken that it forbids."""
    roles = ASKING[who]
    headers = [] if roles is None else ["--header", f"Authorization: Bearer {access_token(str(uuid4()), *roles)}"]
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            f"--config-file={configuration}",
            "run",
            f"{api.url}/openapi.json",
            "--checks=all",
            "--phases=examples,coverage,fuzzing,stateful",
            f"--max-examples={os.environ.get('SYSTEM_TEST_FUZZ_EXAMPLES', '8')}",
            f"--seed={os.environ.get('SYSTEM_TEST_FUZZ_SEED', '1')}",
            "--no-shrink",
            "--continue-on-failure",
            "--request-timeout=20",
            "--no-color",
            *headers,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
    if roles:
        assert reserved(api) - answered(api) == set(), "refusals alone prove nothing of what a superuser is answered"


def reserved(api: Stack) -> set[str]:
    """The routes that not everybody who is signed in may ask, by the table of access."""
    rows = (line.rsplit("  ", 1) for line in api.run("-m", "app.cli", "access").splitlines())
    return {row[0].strip() for row in rows if row[-1].strip() in ("staff", "superuser")}


def answered(api: Stack) -> set[str]:
    """The routes that have answered 2xx, by the service's own count."""
    counted = re.findall(r"(?m)^http_requests_total\{(.*)\} ", httpx.get(f"{api.url}/metrics", timeout=10).text)
    labels = [dict(re.findall(r'(\w+)="([^"]*)"', line)) for line in counted]
    return {f"{each['method']} {each['route']}" for each in labels if each["status"].startswith("2")}
