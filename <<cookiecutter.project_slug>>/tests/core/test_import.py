"""Importing the service has no effect: no socket, no file of settings, no thread, no SDK that is not needed."""

import subprocess
import sys

from app.core.project import ROOT

# Run in a fresh interpreter that reports what importing everything did. The audit hook sees what any library does.
LOOK = """
import json, os, pathlib, sys, threading
seen = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "subprocess.Popen", "os.fork"):
        seen.append([event, repr(arguments)])
    elif event == "open" and str(arguments[0]).endswith((".env", "pyproject.toml", "alembic.ini")):
        seen.append([event, repr(arguments)])
sys.addaudithook(hook)
before = dict(os.environ)
import importlib
for path in sorted(pathlib.Path("app").rglob("*.py")):
    importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
from app.core.settings import Settings
from app.main import create_app
create_app(Settings())
from app.worker import create_worker
create_worker(Settings())
# What knows the project's name has read it by now; settings were given.
seen = [entry for entry in seen if "pyproject" not in entry[1]]
print(json.dumps({
    "seen": seen,
    "threads": [thread.name for thread in threading.enumerate()],
    "environment": os.environ == before,
    "modules": sorted(sys.modules),
}))
"""


def test_importing_and_assembling_starts_nothing() -> None:
    """Every module of app/, then `create_app` and `create_worker`, in an interpreter of their own."""
    import json

    result = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["seen"] == []
    assert report["threads"] == ["MainThread"]
    assert report["environment"]
    heavy = {"openai", "boto3", "botocore", "opentelemetry.exporter", "sqladmin", "sentry_sdk", "numpy", "pypdf"}
    assert heavy.isdisjoint(report["modules"])
