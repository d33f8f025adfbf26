"""`make check`: run every checker, several at once, and list at the end all that failed.

`python -m ops.check lint types` runs those only; `SKIP=zizmor,shell` leaves some out. A checker that no Python package
brings, and that the machine lacks, is said and passed over; but not where CI is set, as nobody would notice there.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from ops.check import compose, docs, licences, migrations, nginx, rooms, secrets
from ops.check.tools import Check, Findings, Foreign, Unavailable, command

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ".github/workflows/*.yml"
SCHEMA = ("check-jsonschema", "--builtin-schema")

#: The slowest first, so that none is waited for alone.
OWN: tuple[Check, ...] = (
    Check("types", command("mypy")),
    Check("secrets", secrets.check),
    Check("compose", compose.check, "compose.yaml"),
    Check(
        "zizmor",
        command("zizmor", "--offline", "--quiet", "--no-progress", "--persona", "auditor", ".github"),
        WORKFLOWS,
    ),
    Check("migrations", migrations.check, "migrations/versions/*/*.py"),
    Check("licences", licences.check),
    Check("imports", command("lint-imports", "--no-logo")),
    Check("nginx", nginx.check, "ops/nginx/render.py"),
    Check("lint", command("ruff", "check", "--quiet", ".")),
    Check("format", command("ruff", "format", "--check", "--quiet", ".")),
    Check("env-example", command("python", "-m", "app.cli", "settings", "example", "--check")),
    Check("docs", docs.check, "docs/README.md"),
    Check("dockerfile", command("hadolint", "Dockerfile"), "Dockerfile"),
    Check("shell", command("shellcheck", "--external-sources", "ops/**/*.sh"), "ops/**/*.sh"),
    Check("actionlint", command("actionlint", WORKFLOWS), WORKFLOWS),
    Check("workflow-schema", command(*SCHEMA, "vendor.github-workflows", WORKFLOWS), WORKFLOWS),
    Check(
        "dependabot-schema", command(*SCHEMA, "vendor.dependabot", ".github/dependabot.yml"), ".github/dependabot.yml"
    ),
    Check(
        "compose-schema",
        command(*SCHEMA, "vendor.compose-spec", "compose.yaml", "ops/compose/**/*.yaml"),
        "compose.yaml",
    ),
)


def checks() -> list[Check]:
    """The project's own checks and those of its rooms."""
    names = [module.name for module in pkgutil.iter_modules(rooms.__path__)]
    return [*OWN, *(check for name in names for check in importlib.import_module(f"{rooms.__name__}.{name}").CHECKS)]


def timed(check: Check, root: Path) -> tuple[Findings, str, float]:
    """What the check found, why it could not be run if so, and in how many seconds."""
    started = time.perf_counter()
    found, missing = "", ""
    try:
        found = check.run(root)
    except Foreign as error:
        missing = str(error)
    except Unavailable as error:
        found = str(error)
    if missing and os.environ.get("CI"):
        found = missing
    return found, missing, time.perf_counter() - started


def run_all(chosen: Sequence[Check], root: Path) -> dict[str, Findings]:
    """Run several at once, say of each how it went, and return what the failed ones found."""
    failed: dict[str, Findings] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {pool.submit(timed, check, root): check for check in chosen}
        for done in as_completed(running):
            name = running[done].name
            found, missing, seconds = done.result()
            result = "FAIL" if found else "none" if missing else "ok  "
            print(f"  {result}  {name:<18} {seconds:5.1f} s{f'  NOT CHECKED: {missing}' * bool(missing)}", flush=True)
            if found:
                failed[name] = found
    return failed


def main(names: Sequence[str], root: Path = ROOT) -> int:
    """Run the checks and report.

    Args:
        names: those to run; all that apply unless given.
        root: the project's folder.

    Returns:
        The exit code.
    """
    skipped = {name for name in os.environ.get("SKIP", "").split(",") if name}
    known = checks()
    if unknown := ({*names} | skipped) - {check.name for check in known}:
        print(f"check: no such check: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    chosen = [check for check in known if (check.name in names if names else check.applies(root))]
    for check in chosen:
        if check.name in skipped:
            print(f"  skip  {check.name}", flush=True)
    failed = run_all([check for check in chosen if check.name not in skipped], root)
    for name in sorted(failed):
        print(f"\n{name}:\n{failed[name]}", file=sys.stderr)
    if failed:
        print(f"\ncheck: failed: {', '.join(sorted(failed))}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
