"""What the OpenAPI document promises, held against a running API by requests made up from the document itself.

schemathesis sends what the document allows, what it forbids, and chains of requests in which one answer feeds the next;
every check that it has is on. SYSTEM_TEST_FUZZ_SEED and SYSTEM_TEST_FUZZ_EXAMPLES make another and a longer run.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from devstack import Stack

# Limits count requests, and a fuzzer sends hundreds.
UNLIMITED = {"LOG_LEVEL": "INFO", "TASKS_CONCURRENCY": "1", "LIMITS_PER_USER": "0", "LIMITS_SENSITIVE": "1000000"}
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The API itself, without nginx in front, on neighbours of its own: what is made up here stays here."""
    if os.environ.get("SYSTEM_TEST_URL"):
        pytest.skip("a service that runs already is not ours to fill with nonsense")
    parts = ("postgres", "cache", "broker", "storage", "api", "worker")
    with Stack(tmp_path_factory.mktemp("fuzz"), parts, UNLIMITED) as stack:
        yield stack


def signed_in(url: str) -> str:
    """An access token of somebody new."""
    person = {"email": f"fuzzer-{uuid4().hex[:12]}@example.com", "password": f"pass-{uuid4()}"}
    assert httpx.post(f"{url}/api/v1/accounts/register", json=person).status_code == 202
    answer = httpx.post(f"{url}/api/v1/accounts/sign-in", json=person)
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["access_token"]
    return token


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fuzzer has to know of the whole, and of each feature: a feature's part goes with the feature."""
    whole = tmp_path_factory.mktemp("configuration") / "schemathesis.toml"
    parts = [TESTS / "system" / "schemathesis.toml", *sorted(TESTS.glob("features/*/schemathesis.toml"))]
    whole.write_text("\n".join(part.read_text() for part in parts))
    return whole


@pytest.mark.parametrize("who", ["a stranger", "somebody who is signed in"])
def test_the_document_keeps_its_word(api: Stack, configuration: Path, who: str, tmp_path: Path) -> None:
    """No 5xx, no status, header or body that the document does not know, nothing taken that it forbids."""
    headers = [] if who == "a stranger" else ["--header", f"Authorization: Bearer {signed_in(api.url)}"]
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
